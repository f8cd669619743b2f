"""A published network's weights into a model file of ours: folded, verified, kept beside our other caches."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shvit.cache import cache_folder
from shvit.card import IMAGENET_MEAN, IMAGENET_STD, MIN_CROP_RATIO, Card, Metric, Preprocessing
from shvit.display import say
from shvit.errors import ArgumentError, CheckpointError, ModelFileError
from shvit.hub.cached import Fetched
from shvit.hub.names import MEASURED_BY, Reference

if TYPE_CHECKING:
    from shvit.modelfile.card import ClassNames
    from shvit.network.containers import Weights as WhichWeights
    from shvit.network.network import FoldedNetwork
    from shvit.network.sides import ImageSize

NamedPrecision = Literal["fp16", "int8"]

CONVERSION = 1
"""Counts up when what is written of the same weights changes."""

TITLE = "ImageNet-1k"
VALIDATION = f"{TITLE} validation (50,000 images)"

MOST_PIXELS = 4 * 2**20
"""In all the images that a new file is verified on: fewer large ones, which take long."""

PARTS = 1
"""Of each photograph of the package, mirrored too, that a new file is verified on: 12 images take a second."""


def converted_folder(reference: Reference) -> Path:
    """Where model files of a repository's weights are kept."""
    return cache_folder() / "models" / reference.repository.replace("/", "--")


def converted_file(fetched: Fetched, precision: NamedPrecision = "fp16") -> Path:
    """Where the model file of these weights is kept, or will be: named by what decides its contents."""
    name = f"{fetched.commit[:12]}-{fetched.sha256[:16]}-{precision}-v{CONVERSION}.onnx"
    return converted_folder(fetched.reference) / name


def convert(fetched: Fetched, path: Path) -> None:
    """Writes the model file of fetched weights, compared with what NumPy computes of them.

    Raises:
        CheckpointError: the weights are of no SHViT, or the repository's ``config.json`` says what they cannot be.
        ExportError: the file cannot be written, or differs from its network.
    """
    from shvit.modelfile.onnx import convert as write
    from shvit.modelfile.source import Source
    from shvit.modelfile.verify import photograph_crops, write_verified

    network, card, notes = open_published(fetched, fetched.reference.name)
    for note in notes:
        say(f"{fetched.reference.name}: {note}", sys.stderr)
    source = Source(network, path, card, "fp16")
    height, width = card.preprocessing.image_size
    images = photograph_crops(card.preprocessing, PARTS)[: max(1, MOST_PIXELS // (height * width))]
    write_verified(source, path, "onnx", write, images)


def open_published(
    fetched: Fetched,
    name: str,
    image_size: ImageSize | None = None,
    class_names: ClassNames = None,
    weights: WhichWeights = "auto",
    keep_unfolded: bool = False,
) -> tuple[FoldedNetwork, Card, list[str]]:
    """Fetched weights as a folded network, its card, and what is worth saying of them.

    Args:
        name: the card's.
        image_size: of the input; the repository's or the variant's when not given.
        class_names: as of ``card_for``; the repository's when not given.
        weights, keep_unfolded: as of ``load_folded``.

    Raises:
        CheckpointError: the weights are of no SHViT, or the repository's ``config.json`` says what they cannot be.
    """
    from shvit.modelfile.card import card_for
    from shvit.network.loading import load_folded

    repository = fetched.reference.repository
    try:
        network, checkpoint = load_folded(fetched.file, weights, keep_unfolded)
        _check_use(network)
        settings = _Settings(fetched, network.config.num_classes, network.architecture)
        names = settings.class_names() if class_names is None else class_names
        card = settings.complete(card_for(network, checkpoint, name, image_size, names), image_size)
    except (CheckpointError, ArgumentError, ModelFileError) as error:
        reason = str(error).removeprefix(f"{fetched.file}: ")
        raise CheckpointError(f"{repository}: {fetched.file.name}: {reason}") from None
    card = replace(card, macs=network.macs(card.preprocessing.image_size))
    return network, card, [*checkpoint.notes, *settings.notes]


def _check_use(network: FoldedNetwork) -> None:
    """Raises: CheckpointError: the network is none that classifies RGB images."""
    if network.config.num_classes == 0:
        raise CheckpointError("they have no head and give features; expected a network with classes")
    if network.config.in_chans != 3:
        raise CheckpointError(f"they take images of {network.config.in_chans} channels; expected 3, for RGB")


class _Settings:
    """What a repository's ``config.json`` adds to its weights; where the two disagree, the weights decide.

    It is timm's, or as ``transformers`` has it. Anybody may have written it.
    """

    def __init__(self, fetched: Fetched, outputs: int, architecture: str) -> None:
        self._fetched, self._config, self._outputs = fetched, fetched.config, outputs
        self._pretrained = _mapping(self._config.get("pretrained_cfg"))
        self.notes: list[str] = []
        for key, own in (("num_classes", outputs), ("architecture", architecture)):
            said = self._config.get(key)
            if said is not None and said != own and own != "shvit":
                self.notes.append(
                    f"config.json says {key} {said!r}"[:100] + f", the weights are of {own}: these decide"
                )

    def class_names(self) -> ClassNames:
        """As ``card_for`` takes them."""
        from shvit.network.imagenet import IMAGENET

        names = self._config.get("label_names") or self._pretrained.get("label_names")
        described = self._config.get("label_descriptions") or self._pretrained.get("label_descriptions")
        numbered, key = self._config.get("id2label"), "label_names"
        if isinstance(numbered, dict) and not names:
            names, key = [numbered.get(str(place)) for place in range(len(numbered))], "id2label"
        if not names:
            return IMAGENET if self._is_imagenet() else None
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            expected = "a list of texts" if key == "label_names" else "a text for each output's number, from 0"
            raise CheckpointError(f"config.json: {key}: expected {expected}")
        if len(names) != self._outputs:
            raise CheckpointError(
                f"config.json names {len(names):,} classes, the network has {self._outputs:,} outputs; fetch it with "
                "the hub's client and export it with names of your own: shvit export --classes FILE"
            )
        texts = _mapping(described)
        return [texts[each] if isinstance(texts.get(each), str) else each for each in names]

    def _is_imagenet(self) -> bool:
        """Whether a thousand outputs without names are ImageNet-1k's."""
        said = self._fetched.metadata.get("datasets", [])
        return self._outputs == 1000 and (
            self._fetched.reference.published is not None
            or self._fetched.reference.repository.endswith(".in1k")
            or "imagenet-1k" in ([said] if isinstance(said, str) else said)
        )

    def complete(self, card: Card, image_size: ImageSize | None) -> Card:
        """The card with how the network was evaluated, where it is from, and what is known of it."""
        fetched, published = self._fetched, self._fetched.reference.published
        repository = fetched.reference.repository
        return replace(
            card,
            preprocessing=self._preprocessing(card.preprocessing, image_size),
            training_data=TITLE if published is not None else self._datasets(),
            licence=fetched.licence,
            source=f"{repository}, commit {fetched.commit}",
            weights=fetched.weights,
            metrics=()
            if published is None
            else (Metric("top1", round(published.top1 / 100, 5), f"{VALIDATION}, as {MEASURED_BY} measured it"),),
        )

    def _datasets(self) -> str | None:
        said = self._fetched.metadata.get("datasets")
        return (", ".join(said) if isinstance(said, list) else said) or None

    def _preprocessing(self, known: Preprocessing, image_size: ImageSize | None) -> Preprocessing:
        """Raises: CheckpointError: the network was trained on images that were normalised in another way."""
        if not self._pretrained:
            return known
        for key, own in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            said = self._pretrained.get(key)
            if said is not None and not _is_near(said, own):
                raise CheckpointError(
                    f"config.json: {key} {said!r}"[:100] + f": only ImageNet's normalisation is written, {list(own)}"
                )
        size = self._pretrained.get("input_size")
        sides = known.image_size
        if image_size is None and size is not None:
            if not isinstance(size, list) or [type(each) for each in size] != [int] * 3:
                raise CheckpointError(f"config.json: input_size: expected [3, height, width], got {size!r}"[:100])
            sides = (size[1], size[2])
        ratio = self._pretrained.get("crop_pct")
        if ratio is None:
            ratio = known.crop_ratio
        if type(ratio) not in (int, float) or not MIN_CROP_RATIO <= ratio <= 1:
            raise CheckpointError(
                f"config.json: crop_pct: expected a number from {MIN_CROP_RATIO} to 1, got {ratio!r}"[:100]
            )
        mode = self._resize_mode(float(ratio))
        interpolation = self._pretrained.get("interpolation", known.interpolation)
        if interpolation not in ("bicubic", "bilinear", "lanczos"):
            interpolation = known.interpolation
            self.notes.append(f"config.json: interpolation is not known here: {interpolation} is taken")
        try:
            return Preprocessing(sides, float(ratio), mode, interpolation)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"config.json: pretrained_cfg: {error}") from None

    def _resize_mode(self, ratio: float) -> Literal["crop", "squash", "pad"]:
        """timm's ``crop_mode``: ``center``, ``squash``, or ``border``, which pads with the mean colour."""
        said = self._pretrained.get("crop_mode", "center")
        if said == "squash" or (said == "border" and ratio == 1):
            return "squash" if said == "squash" else "pad"
        if said != "center":
            what = f"crop_mode {said!r}"[:60]
            self.notes.append(f"config.json: {what} is not known here with crop_pct {ratio:g}: center is taken")
        return "crop"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_near(said: object, own: tuple[float, ...]) -> bool:
    if not isinstance(said, list) or len(said) != len(own):
        return False
    pairs = zip(said, own, strict=True)
    return all(type(each) in (int, float) and isclose(each, wanted, abs_tol=1e-4) for each, wanted in pairs)
