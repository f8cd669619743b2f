"""From a trained network to files that run elsewhere, each verified before it takes its name."""

from shvit.export.onnx import ExportReport, export_onnx

__all__ = ["ExportReport", "export_onnx"]
