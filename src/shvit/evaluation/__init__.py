"""How good a model file or a checkpoint is on labelled images: figures, tables, pictures, a report."""

from shvit.evaluation.classifiers import ImageClassifier, measure_latency, open_classifier
from shvit.evaluation.evaluate import (
    Evaluation,
    FastDecoding,
    Robustness,
    evaluate,
    evaluate_corrupted,
    evaluate_fast_decoding,
)
from shvit.evaluation.labels import (
    LabelledImages,
    dataset_labels,
    evenly_spaced,
    labels_from_file,
    match_classes,
)
from shvit.evaluation.report import REPORT_FILES, provenance, summarize, worst_classes, write_report

__all__ = [
    "REPORT_FILES",
    "Evaluation",
    "FastDecoding",
    "ImageClassifier",
    "LabelledImages",
    "Robustness",
    "dataset_labels",
    "evaluate",
    "evaluate_corrupted",
    "evaluate_fast_decoding",
    "evenly_spaced",
    "labels_from_file",
    "match_classes",
    "measure_latency",
    "open_classifier",
    "provenance",
    "summarize",
    "worst_classes",
    "write_report",
]
