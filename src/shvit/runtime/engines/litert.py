"""LiteRT, an extra: what Android runs; on a CPU its XNNPACK kernels do the work."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from shvit.errors import MissingDependencyError
from shvit.runtime.card import CARD_FILE, METADATA_KEY
from shvit.runtime.engines.base import Engine, check_input

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as error:
    raise MissingDependencyError(
        "the LiteRT engine is not installed; install it with: pip install 'shvit[litert]'"
    ) from error


class LiteRTEngine(Engine):
    """Takes batches of any size: a file has one of its own, which is run as often as needed."""

    name: ClassVar[str] = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        (first, *more), output = self._interpreter.get_input_details(), self._interpreter.get_output_details()[0]
        self._input, self._output = first["index"], output["index"]
        self._batch, *shape = (int(side) for side in first["shape"])
        self.input_shape = (None, *shape)
        self._classes = int(output["shape"][-1])
        self.output_shape = (None, self._classes)
        check_input(path, "several inputs" if more else np.dtype(first["dtype"]).name, self.input_shape)
        self.metadata = {}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if CARD_FILE in archive.namelist():
                    self.metadata[METADATA_KEY] = archive.read(CARD_FILE).decode()

    def infer(self, batch: np.ndarray) -> np.ndarray:
        outputs = np.empty((len(batch), self._classes), np.float32)
        filled = np.zeros((self._batch, *batch.shape[1:]), np.uint8)
        for start in range(0, len(batch), self._batch):
            part = batch[start : start + self._batch]
            filled[: len(part)] = part
            self._interpreter.set_tensor(self._input, filled)
            self._interpreter.invoke()
            outputs[start : start + len(part)] = self._interpreter.get_tensor(self._output)[: len(part)]
        return outputs
