"""From a trained network to files that run elsewhere, each verified before it takes its name.

What needs PyTorch is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shvit.exporting.options import FORMATS, FileOptions, Format, Precision
from shvit.modelfile.report import ExportReport, Int8Accuracy, Int8Agreement, Int8Precision

if TYPE_CHECKING:
    from shvit.exporting.formats import export_model, export_onnx

__all__ = [
    "FORMATS",
    "ExportReport",
    "FileOptions",
    "Format",
    "Int8Accuracy",
    "Int8Agreement",
    "Int8Precision",
    "Precision",
    "export_model",
    "export_onnx",
]

_LAB = {"export_model": "formats", "export_onnx": "formats"}


def __getattr__(name: str) -> Any:
    if name not in _LAB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAB[name]}"), name)
