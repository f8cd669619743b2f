"""From a trained network to files that run elsewhere, each verified before it takes its name."""

from shvit.exporting.formats import FORMATS, Format, export_model
from shvit.exporting.onnx import export_onnx
from shvit.exporting.verify import ExportReport, Precision

__all__ = ["FORMATS", "ExportReport", "Format", "Precision", "export_model", "export_onnx"]
