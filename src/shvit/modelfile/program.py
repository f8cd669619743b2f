"""A few operators after a network's head, written once for every format: how a score is computed inside of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shvit.errors import ArgumentError

Kind = Literal["matmul", "add", "subtract", "multiply", "sum", "max", "exp", "log", "sqrt", "relu"]
"""``matmul`` is of rows and a constant ``(inputs, outputs)``; ``sum`` and ``max`` go over a row, to ``(N, 1)``."""

FEATURES, LOGITS = "features", "logits"
"""What a program may read: pooled features ``float32 (N, channels)`` and logits ``float32 (N, classes)``."""


@dataclass(frozen=True)
class Step:
    """One operator."""

    name: str
    """Of its result, ``float32 (N, columns)``."""
    kind: Kind
    inputs: tuple[str, ...]
    """Earlier steps, constants, ``features`` or ``logits``; a constant is the second."""


@dataclass(frozen=True, eq=False)
class Program:
    """Steps whose last result is the score, ``float32 (N, 1)``.

    Raises:
        ValueError: a step reads what is not there.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, np.ndarray]
    """``float32`` or ``float16``; matrices ``(inputs, outputs)``, rows ``(columns,)`` or single numbers ``(1,)``."""

    def __post_init__(self) -> None:
        known = {FEATURES, LOGITS, *self.constants}
        for step in self.steps:
            if missing := [each for each in step.inputs if each not in known]:
                raise ArgumentError(f"step {step.name}: reads {', '.join(missing)}, which is no earlier one")
            known.add(step.name)

    @property
    def size_bytes(self) -> int:
        """Of its constants, as a file holds them."""
        return sum(each.nbytes for each in self.constants.values())

    def run(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """What a file with it computes, in NumPy: ``float32 (N,)``.

        Args:
            features: ``float32 (N, channels)``.
            logits: ``float32 (N, classes)``.
        """
        values: dict[str, np.ndarray] = {name: each.astype(np.float32) for name, each in self.constants.items()}
        values |= {FEATURES: features.astype(np.float32), LOGITS: logits.astype(np.float32)}
        for step in self.steps:
            values[step.name] = _RUN[step.kind](*(values[each] for each in step.inputs))
        return values[self.steps[-1].name][:, 0]


_RUN: dict[Kind, Callable[..., np.ndarray]] = {
    "matmul": lambda x, y: x @ y,
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "sum": lambda x: x.sum(axis=1, keepdims=True),
    "max": lambda x: x.max(axis=1, keepdims=True),
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "relu": lambda x: np.maximum(x, 0),
}
