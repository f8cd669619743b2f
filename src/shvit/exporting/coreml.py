"""Core ML: an ``mlprogram`` that takes an image and gives class labels, for iOS 15, macOS 12 and later.

Core ML converts on Linux but runs on Apple's systems only, so that what is written here is not run: its input, its
labels, its types and the operations of its program are checked instead, and the card says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shvit.card import METADATA_KEY, Card, TaskName
from shvit.errors import ExportError, MissingDependencyError
from shvit.exporting.trace import deployed
from shvit.install import install_command
from shvit.modelfile.source import Source
from shvit.modelfile.verify import Written, quiet

INPUT, PROBABILITIES, LABEL = "image", "probabilities", "classLabel"
SPECIFICATION = 6
"""Core ML's version in iOS 15."""

ELEMENTS = {"fp16": 10, "fp32": 11}
"""Core ML's numbers of the types that the operations compute in."""


SCORES: dict[TaskName, Callable[[Tensor], Tensor]] = {
    "classification": lambda logits: logits.softmax(dim=-1),
    "multi_label": lambda logits: logits.sigmoid(),
}
"""From logits to what an app reads, as ``shvit.tasks`` computes it."""


class _FromImage(nn.Module):
    """Pixels as Core ML gives them, ``float32 (1, 3, H, W)`` in [0, 255], to probabilities ``(1, classes)``."""

    def __init__(self, network: nn.Module, task: TaskName) -> None:
        super().__init__()
        self.network, self.scores = network, SCORES[task]

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(self.network(image.permute(0, 2, 3, 1)))


def convert(source: Source, path: Path) -> Written:
    """Writes the package. Resizing and cropping are left to the caller (Vision); normalisation is in the program."""
    try:
        with quiet():
            import coremltools as ct

            model = _convert(ct, source)
    except ImportError as error:
        raise MissingDependencyError(f"coremltools is not installed: {install_command('coreml')}") from error
    notes = _check(model.get_spec(), source)

    def seal(card: Card) -> None:
        model.short_description = f"{card.name}: {card.architecture}, {len(card.classes)} classes"
        model.license = card.licence or ""
        model.user_defined_metadata[METADATA_KEY] = card.to_json()
        model.save(str(path))

    return Written(seal, None, None, notes)


def _convert(ct: Any, source: Source) -> Any:
    height, width = source.card.preprocessing.image_size
    example = torch.zeros(1, 3, height, width)
    program = torch.export.export(_FromImage(deployed(source), source.card.task).eval(), (example,)).run_decompositions(
        {}
    )
    return ct.convert(
        program,
        inputs=[ct.ImageType(INPUT, shape=tuple(example.shape), color_layout=ct.colorlayout.RGB)],
        classifier_config=ct.ClassifierConfig(labels(source.card), predicted_feature_name=LABEL),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS15,
        compute_precision=ct.precision.FLOAT16 if source.precision == "fp16" else ct.precision.FLOAT32,
        skip_model_load=True,
    )


def labels(card: Card) -> list[str]:
    """The classes' labels. Core ML knows a class by its label: one that several have gets its number behind it."""
    shared = Counter(each.label for each in card.classes)
    return [each.label if shared[each.label] == 1 else f"{each.label} ({each.class_id})" for each in card.classes]


def _check(spec: Any, source: Source) -> str:
    """Compares the program with what was asked for.

    Returns:
        What was checked, for the card.

    Raises:
        ExportError: it differs.
    """
    (image,) = spec.description.input
    (program,) = spec.mlProgram.functions["main"].block_specializations.values()
    operations = [each for each in program.operations if each.type != "const"]
    kinds = Counter(each.type for each in operations)
    classify = operations[-1]
    colour = image.type.imageType
    written = classify.inputs["classes"].arguments[0].value.immediateValue.list.values
    of_float = {
        each.outputs[0].type.tensorType.dataType for each in operations[:-1] if each.type not in ("cast", "classify")
    }
    shapes = [[side.constant.size for side in each.outputs[0].type.tensorType.dimensions] for each in operations[-4:-1]]
    classes = len(source.card.classes)
    expected = {
        "specification version": (spec.specificationVersion, SPECIFICATION),
        "input": ((image.name, colour.height, colour.width), (INPUT, *source.card.preprocessing.image_size)),
        "colours": (colour.colorSpace, colour.RGB),
        "label's name": (spec.description.predictedFeatureName, LABEL),
        "labels": ([each.immediateValue.tensor.strings.values[0] for each in written], labels(source.card)),
        "last operation": (classify.type, "classify"),
        "shapes before it": (shapes[-1], [1, classes]),
        "elements": (of_float, {ELEMENTS[source.precision]}),
        "convolutions": (kinds["conv"], sum(each.ndim == 4 for each in source.network.arrays.values())),
        "transpositions": (kinds["transpose"], 0),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            raise ExportError(f"the Core ML program's {what}: expected {wanted}, got {got}"[:300])
    return (
        f"not run: Core ML runs on Apple's systems. Checked: {len(operations)} operations of {len(kinds)} kinds in "
        f"{source.precision}, input, {classes} labels, shapes"
    )
