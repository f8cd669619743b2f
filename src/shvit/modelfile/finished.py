"""Finished model files of every format, opened to be written anew with another card and a second output."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

from shvit.card import MAX_CARD_BYTES, METADATA_KEY, Card
from shvit.engines.base import FILE_ENGINES
from shvit.errors import ModelFileError
from shvit.modelfile.head import LinearHead
from shvit.modelfile.program import FEATURES, Program

MAX_ATTACHED_BYTES = 4 * MAX_CARD_BYTES
"""Of a TFLite file: the card, the labels, and what others put beside them."""


class FinishedFile(ABC):
    """A model file as it is read; what it is written to may be the same file.

    Args:
        path: the file.

    Raises:
        ModelFileError: it cannot be read.
        MissingDependencyError: the package that reads this format is not installed.
    """

    engine: str
    """What runs such files."""
    features: str | None
    """What the pooled features are called; ``None`` of an ONNX file that has none."""

    @abstractmethod
    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    @abstractmethod
    def write(
        self, target: Path, output: str, program: Program | None, card: Card, head: LinearHead | None = None
    ) -> None:
        """The same graph with a program as its second output, or without one.

        Args:
            output: that output's name.
            head: in place of the graph's own.

        Raises:
            ModelFileError: the graph has no head as ``shvit export`` writes it.
        """


class _ONNXFile(FinishedFile):
    engine = "onnxruntime"

    def __init__(self, path: Path) -> None:
        from shvit.modelfile import finished_onnx

        self._path = path
        self._proto, self.features = finished_onnx.read(path)

    def write(
        self, target: Path, output: str, program: Program | None, card: Card, head: LinearHead | None = None
    ) -> None:
        from shvit.modelfile.finished_onnx import set_head, set_output

        if head is not None:
            set_head(self._proto, head, self._path)
        set_output(self._proto, output, program, self.features, self._path)
        others = [each for each in self._proto.metadata_props if each.key != METADATA_KEY]
        del self._proto.metadata_props[:]
        self._proto.metadata_props.extend(others)
        self._proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
        target.write_bytes(self._proto.SerializeToString())


class _LiteRTFile(FinishedFile):
    engine = "litert"
    features = FEATURES

    def __init__(self, path: Path) -> None:
        from shvit.modelfile import finished_litert

        self._module, self._path, self._graph = finished_litert, path, path.read_bytes()
        self._files = _attached(path) if zipfile.is_zipfile(path) else {}

    def write(
        self, target: Path, output: str, program: Program | None, card: Card, head: LinearHead | None = None
    ) -> None:
        from shvit.card import CARD_FILE

        # An earlier program goes first: what is added for the head would stand after its tensors.
        graph = self._graph
        if head is not None:
            graph = self._module.set_head(self._module.set_output(graph, output, None, self._path), head, self._path)
        target.write_bytes(self._module.set_output(graph, output, program, self._path))
        with zipfile.ZipFile(target, "a") as archive:
            for name, contents in {**self._files, CARD_FILE: card.to_json().encode()}.items():
                archive.writestr(name, contents)


def _attached(path: Path) -> dict[str, bytes]:
    """The files in the ZIP archive at a TFLite file's end, the card and the labels among them.

    Raises:
        ModelFileError: they are damaged, encrypted, or more than such files are.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(each.file_size for each in archive.infolist())) > MAX_ATTACHED_BYTES:
                raise ModelFileError(
                    f"{path}: {size:,} bytes of files are attached; expected at most {MAX_ATTACHED_BYTES:,}"
                )
            return {each: archive.read(each) for each in archive.namelist()}
    except ModelFileError:
        raise
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: what is attached to it cannot be read: {error}") from None


class _OpenVINOFile(FinishedFile):
    engine = "openvino"
    features = FEATURES

    def __init__(self, path: Path) -> None:
        from shvit.modelfile import finished_openvino

        self._module, self._path = finished_openvino, path

    def write(
        self, target: Path, output: str, program: Program | None, card: Card, head: LinearHead | None = None
    ) -> None:
        model = self._module.read(self._path)
        if head is not None:
            self._module.set_head(model, head, self._path)
        self._module.set_output(model, output, program, self._path)
        model.set_rt_info(card.to_json(), ["framework", METADATA_KEY])
        self._module.save(model, target)


_KINDS: dict[str, type[FinishedFile]] = {"onnxruntime": _ONNXFile, "litert": _LiteRTFile, "openvino": _OpenVINOFile}


def open_finished(path: Path) -> FinishedFile:
    """Opens a model file by its suffix, as the engines do."""
    return _KINDS[FILE_ENGINES.get(path.suffix.lower(), "onnxruntime")](path)


def check_suffix(path: Path, output: Path) -> None:
    """Raises: ModelFileError: what is written would have another format's name."""
    if output.suffix.lower() != path.suffix.lower():
        raise ModelFileError(
            f"{output}: the format stays that of {path.name}; name it {output.with_suffix(path.suffix)}"
        )
