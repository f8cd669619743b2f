"""LiteRT, an extra: what Android runs; on a CPU its XNNPACK kernels do the work."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from shvit.card import CARD_FILE, MAX_CARD_BYTES, METADATA_KEY
from shvit.engines.base import Engine, check_input, check_output, check_signature
from shvit.errors import MissingDependencyError, ModelFileError
from shvit.install import install_command
from shvit.reading import utf8_path

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as error:
    raise MissingDependencyError(
        f"the LiteRT engine is not installed; install it with: {install_command('litert')}"
    ) from error


MAX_INPUT_BYTES = 2**30
"""Of the batch that a file takes at once."""


class LiteRTEngine(Engine):
    """The file has a fixed batch size; larger batches run in several passes."""

    name: ClassVar[str] = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        with utf8_path(path) as file:
            self._interpreter = Interpreter(str(file), num_threads=threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        check_signature(path, len(inputs), len(outputs))
        (first,), output = inputs, outputs[0]
        self._input, self._outputs = first["index"], [each["index"] for each in outputs]
        self.outputs = tuple(each["name"] for each in outputs)
        self._batch, *shape = (int(side) for side in first["shape"])
        self.input_shape = (None, *shape)
        self.output_shape = (None, *(int(side) for side in output["shape"][1:]))
        check_input(path, np.dtype(first["dtype"]).name, self.input_shape)
        check_output(path, np.dtype(output["dtype"]).name)
        if not 0 < self._batch * math.prod(shape) <= MAX_INPUT_BYTES:
            raise ModelFileError(
                f"{path}: takes {self._batch:,} images at once; expected 1 or more, of together at most 1 GiB"
            )
        self._interpreter.allocate_tensors()
        self.metadata = read_metadata(path)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        return self._tensors(batch, self._outputs[:1])[0]

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._tensors(batch, self._outputs), strict=True))

    def _tensors(self, batch: np.ndarray, indices: list[int]) -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = []
        filled = np.zeros((self._batch, *batch.shape[1:]), np.uint8)
        for start in range(0, len(batch), self._batch):
            part = batch[start : start + self._batch]
            filled[: len(part)] = part
            self._interpreter.set_tensor(self._input, filled)
            self._interpreter.invoke()
            parts.append([self._interpreter.get_tensor(each)[: len(part)] for each in indices])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def read_metadata(path: Path) -> dict[str, str]:
    """The card among the files that are attached to a TFLite file, by its key; nothing where there is none.

    Raises:
        ModelFileError: it is longer than any.
    """
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        if CARD_FILE not in archive.namelist():
            return {}
        if archive.getinfo(CARD_FILE).file_size > MAX_CARD_BYTES:
            raise ModelFileError(f"{path}: the card is longer than {MAX_CARD_BYTES // 2**20} MiB")
        return {METADATA_KEY: archive.read(CARD_FILE).decode()}
