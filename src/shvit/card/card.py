"""The card inside a model file: what it is, what its outputs mean, how its inputs were prepared."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Integral
from typing import Literal

from shvit.card.decision import MAX_LABEL, Decision
from shvit.card.fields import build, check_fields, check_text, describe, refuse_constant
from shvit.card.taught import Taught
from shvit.errors import ArgumentError, ModelFileError

SCHEMA_VERSION = 2
"""2 has other tasks than classification, ``decision``, and more ways of preprocessing; cards of 1 are read."""

METADATA_KEY = "shvit.card"
"""Key of the card's JSON in the metadata of an ONNX file, and of other formats that have such."""

CARD_FILE = "shvit.card.json"
"""The card's JSON in the ZIP archive at the end of a TFLite file, where such files have their associated files."""

MAX_CARD_BYTES = 16 * 2**20
"""A card's JSON, in UTF-8; one of ImageNet-21k has 2 MB."""

MAX_CLASSES = 100_000
MAX_METRICS = 1000
MAX_SIDE = 2048
"""Pixels of an input's height or width. A batch of 16 such images has 200 MB."""

MIN_CROP_RATIO = 0.1
"""The whole image is resized to the input's sides divided by this; evaluation uses 0.8 to 1."""

_WNID = re.compile("n[0-9]{8}")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassInfo:
    """One class of a classifier."""

    class_id: int
    """Place in the output, from 0."""
    label: str
    wnid: str | None = None
    """WordNet id, such as n02124075, where the class is one of ImageNet's."""

    def __post_init__(self) -> None:
        check_text("label", self.label, MAX_LABEL)
        if self.wnid is not None:
            check_text("wnid", self.wnid, MAX_LABEL)


def short_labels(classes: Sequence[ClassInfo]) -> tuple[str, ...]:
    """What each class is called where people read it: ``jinrikisha`` of ``jinrikisha, ricksha, rickshaw``.

    Only the label of a class with a WordNet id is a list of synonyms; a comma in another one belongs to the name. Two
    classes that would be called the same keep their whole labels. ``web/page/labels.js`` decides alike.
    """
    first = [_first_synonym(each) for each in classes]
    shared = Counter(first)
    return tuple(each.label if shared[name] > 1 else name for each, name in zip(classes, first, strict=True))


def _first_synonym(info: ClassInfo) -> str:
    if info.wnid is None or not _WNID.fullmatch(info.wnid):
        return info.label
    return info.label.split(",")[0].strip(" ") or info.label


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image becomes the graph's input: ``uint8 (height, width, 3)``, RGB.

    Normalisation is not part of it: that is inside the graph.

    Raises:
        ValueError: a size or a ratio is out of its range.
    """

    image_size: tuple[int, int] = (224, 224)
    """Height and width, in pixels, each 1 to ``MAX_SIDE``."""
    crop_ratio: float = 0.875
    """Share of the resized image that the centre crop keeps, in [``MIN_CROP_RATIO``, 1]."""
    resize_mode: Literal["crop", "squash", "pad"] = "crop"
    """``crop``: keep the aspect ratio, cut the centre. ``squash``: resize to the input, whatever the shape. ``pad``:
    keep the aspect ratio and the whole image, fill what is left of the input with ``pad_color``."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    pad_color: tuple[int, int, int] = (124, 116, 104)
    """RGB, each 0 to 255; for ``pad``. ImageNet's mean colour is next to zero once it is normalised, which is what
    convolutions take to be around an image; timm pads with it too."""

    def __post_init__(self) -> None:
        if not all(isinstance(side, Integral) and 1 <= side <= MAX_SIDE for side in self.image_size):
            sides = "x".join(map(describe, self.image_size))
            raise ArgumentError(f"image_size: expected a height and a width of 1 to {MAX_SIDE} pixels, got {sides}")
        if not MIN_CROP_RATIO <= self.crop_ratio <= 1:
            raise ArgumentError(f"crop_ratio: expected {MIN_CROP_RATIO} to 1, got {describe(self.crop_ratio)}")
        levels = self.pad_color
        if len(levels) != 3 or not all(isinstance(level, Integral) and 0 <= level <= 255 for level in levels):
            found = ", ".join(map(describe, levels))
            raise ArgumentError(f"pad_color: expected red, green and blue of 0 to 255, got {found}")


@dataclass(frozen=True)
class Metric:
    """A measured figure, and how to measure it again."""

    name: str
    value: float
    dataset: str
    command: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Verification:
    """How the written file compared with the network that it was made from, when it was exported."""

    format: str
    """Such as onnx or litert."""
    precision: str
    """fp32, fp16 or int8."""
    engine: str | None = None
    """What ran the file, with its version; ``None`` where nothing on the exporting machine can."""
    images: int = 0
    """Images that both were run on."""
    max_difference: float | None = None
    """Largest difference of a logit, relative to the largest logit."""
    top1_agreement: float | None = None
    """Share of the images with the same first label, in [0, 1]."""
    notes: str | None = None
    """What was checked instead of running it."""

    def __post_init__(self) -> None:
        check_fields(self)


MAX_REMEMBERED = 256
"""Training images that a card may remember."""


@dataclass(frozen=True)
class TrainingSplit:
    """Which images were trained on, as far as needed to measure on others."""

    remembered: tuple[str, ...]
    """Some of the training images: 16 hexadecimal digits each of the name's digest and of the contents'."""
    seed: int | None = None
    """What the validation images were drawn with; ``None`` where the data had a validation split."""
    val_share: float | None = None
    """Share of each class that was held out, in (0, 1); with ``seed``."""
    digest: str | None = None
    """SHA-256 of the list of names and labels, training and validation together, in hexadecimal; with ``seed``."""

    def __post_init__(self) -> None:
        if len(self.remembered) > MAX_REMEMBERED:
            raise ArgumentError(f"remembered: expected at most {MAX_REMEMBERED} images, got {len(self.remembered)}")
        if not all(isinstance(each, str) and re.fullmatch("[0-9a-f]{32}", each) for each in self.remembered):
            raise ArgumentError("remembered: expected 32 hexadecimal digits for each image")
        drawn = (self.seed, self.val_share, self.digest)
        if drawn == (None, None, None):
            return
        if type(self.seed) is not int or abs(self.seed) >= 2**64:
            raise ArgumentError(f"seed: expected a whole number of at most 64 bits, got {self.seed!r}"[:120])
        if type(self.val_share) is not float or not 0 < self.val_share < 1:
            raise ArgumentError(f"val_share: expected more than 0 and less than 1, got {self.val_share!r}"[:120])
        if not isinstance(self.digest, str) or not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise ArgumentError("digest: expected 64 hexadecimal digits")


@dataclass(frozen=True)
class Weights:
    """Published weights that a file was made from, or that its training began with."""

    repository: str
    """On the Hugging Face Hub, such as ``timm/shvit_s4.in1k``."""
    commit: str
    """Of the repository, in 40 hexadecimal digits."""
    file: str
    sha256: str
    """Of the file, in hexadecimal."""

    def __post_init__(self) -> None:
        check_fields(self)


TaskName = Literal["classification", "multi_label"]


@dataclass(frozen=True)
class Card:
    """What a model file says of itself. Written as JSON; unknown keys of the same schema are ignored.

    Raises:
        ValueError: a value is out of its range, or longer than a card may be; docs/model-file.md has the bounds.
    """

    name: str
    architecture: str
    """Variant, such as shvit_s1."""
    classes: tuple[ClassInfo, ...]
    """In the order of the outputs."""
    preprocessing: Preprocessing
    task: TaskName = "classification"
    """``classification``: one of the classes is in the picture. ``multi_label``: any number of them."""
    output: Literal["logits", "probabilities"] = "logits"
    parameters: int | None = None
    """Weights of the folded network."""
    macs: int | None = None
    """Multiply-accumulate operations for one image."""
    training_data: str | None = None
    training_split: TrainingSplit | None = None
    licence: str | None = None
    source: str | None = None
    """Where the weights come from."""
    weights: Weights | None = None
    """Those on the hub that the file was made from."""
    trained_from: Weights | None = None
    """Those on the hub that its training began with."""
    taught: Taught | None = None
    """Of classes that were taught on another file's features."""
    metrics: tuple[Metric, ...] = ()
    verification: Verification | None = None
    """Of the file that holds the card."""
    decision: Decision | None = None
    """When its scores are answers."""
    notes: str | None = None
    created: str | None = None
    """ISO date."""
    shvit_version: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.classes:
            raise ArgumentError("classes: expected at least one")
        for name, values, most in (("classes", self.classes, MAX_CLASSES), ("metrics", self.metrics, MAX_METRICS)):
            if len(values) > most:
                raise ArgumentError(f"{name}: expected at most {most:,}, got {len(values):,}")
        for place, each in enumerate(self.classes):
            if each.class_id != place:
                raise ArgumentError(
                    f"classes: expected class_id {place} at place {place}, got {describe(each.class_id)}"
                )
        check_fields(self)
        if self.decision is not None:
            self._check_decision(self.decision)

    def _check_decision(self, decision: Decision) -> None:
        """Raises: ArgumentError: it is another model's."""
        for place, each in enumerate(decision.thresholds):
            if not 0 <= each.class_id < len(self.classes):
                raise ArgumentError(
                    f"decision.thresholds[{place}]: is for class_id {each.class_id}, there are {len(self.classes)} "
                    "classes; calibrate the file anew with: shvit calibrate"
                )
            if (label := self.classes[each.class_id].label) != each.label:
                raise ArgumentError(
                    f"decision.thresholds[{place}]: is for the class {describe(each.label)}, class {each.class_id} is "
                    f"{describe(label)}; calibrate the file anew with: shvit calibrate"
                )
        written = None if self.verification is None else self.verification.precision
        if written is not None and (written == "int8") != (decision.precision == "int8"):
            raise ArgumentError(
                f"decision: was fitted on a file in {decision.precision}, this one is in {written}, whose scores "
                "differ; calibrate the file anew with: shvit calibrate"
            )

    @cached_property
    def short_labels(self) -> tuple[str, ...]:
        """What each class is called where people read it, by ``class_id``."""
        return short_labels(self.classes)

    def to_json(self) -> str:
        """As a file holds it, in the newest schema."""
        return json.dumps({**asdict(self), "schema_version": SCHEMA_VERSION}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str = "card", with_decision: bool = True) -> Card:
        """Reads a card.

        Args:
            source: what to call it in errors, such as the model file's name.
            with_decision: read that part too; without, for what is about to be calibrated anew, it may be wrong.

        Raises:
            ModelFileError: it is not JSON, is of a newer schema, or a field is missing, of a wrong type or out of its
                range.
        """
        # A character has one byte at least: what is longer need not be encoded to know.
        if len(text) > MAX_CARD_BYTES or len(text.encode(errors="surrogatepass")) > MAX_CARD_BYTES:
            raise ModelFileError(f"{source}: the card is longer than {MAX_CARD_BYTES // 2**20} MiB")
        try:
            raw = json.loads(text, parse_constant=refuse_constant)
        except RecursionError:
            raise ModelFileError(f"{source}: the card is nested too deep") from None
        except ValueError as error:
            raise ModelFileError(f"{source}: the card is not JSON: {error}") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if type(version) is not int or version < 1:
            raise ModelFileError(f"{source}: the card has no schema_version")
        if version > SCHEMA_VERSION:
            raise ModelFileError(
                f"{source}: the card has schema version {describe(version)}, this shvit reads up to {SCHEMA_VERSION}; "
                "use a newer shvit"
            )
        if not with_decision:
            raw.pop("decision", None)
        try:
            return build(cls, raw, "card")
        except ValueError as error:
            raise ModelFileError(f"{source}: {error}") from None
