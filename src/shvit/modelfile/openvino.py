"""OpenVINO IR: ``NAME.xml`` with its weights in ``NAME.bin``, converted from the ONNX graph; the card is in rt_info."""

from __future__ import annotations

from pathlib import Path

from shvit.card import METADATA_KEY, Card
from shvit.engines import load_engine
from shvit.errors import MissingDependencyError
from shvit.install import install_command
from shvit.modelfile.onnx import to_proto
from shvit.modelfile.source import Source
from shvit.modelfile.verify import Written, with_version


def convert(source: Source, path: Path) -> Written:
    """Writes the graph; int8 is the QDQ graph, of which OpenVINO makes its own int8 layers."""
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingDependencyError(f"OpenVINO is not installed: {install_command('openvino')}") from error
    proto = to_proto(source)
    model = ov.Core().read_model(proto.SerializeToString())

    def seal(card: Card) -> None:
        # Where OpenVINO itself keeps the metadata of an ONNX file, so that one reader does for both.
        model.set_rt_info(card.to_json(), ["framework", METADATA_KEY])
        ov.save_model(model, path, compress_to_fp16=source.precision != "fp32")

    return Written(seal, lambda: load_engine("openvino", path, threads=1).infer, with_version("openvino"))
