"""Teachers, live ones and logits computed beforehand, and what a student loses by differing from them."""

from __future__ import annotations

import difflib
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from shvit.atomic import write_json
from shvit.card import IMAGENET_MEAN, IMAGENET_STD, MAX_SIDE, ClassInfo, TaskName
from shvit.data.datasets import fingerprint, short_path
from shvit.data.protocol import ImageDataset
from shvit.data.transforms import Augmentation
from shvit.errors import CheckpointError, DataError
from shvit.models import VARIANTS, load_model
from shvit.models.create import weights_file
from shvit.models.reparam import inference_form
from shvit.network.class_names import known_classes
from shvit.network.integrity import check_archive
from shvit.network.training_metadata import stored_preprocessing, stored_task
from shvit.reading import utf8_path

HALF = np.dtype("<f2")
"""How logits and features are kept."""


@dataclass(frozen=True)
class LogitsCard:
    """What a folder of precomputed logits belongs to."""

    teacher: str
    dataset: str
    fingerprint: str
    images: int
    classes: int
    views: int
    seed: int
    crop_scale: tuple[float, float]
    mirror: bool
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    weights: str | None = None
    """Digest of the teacher's weights."""
    size: int | None = None
    """Side of the teacher's images, in pixels."""
    fit_head: bool = False
    """The teacher's last layer was fitted to the labels of these images."""
    complete: bool = True
    """All views are there; ``False`` while they are computed."""
    top1: float | None = None
    """Share of the crops that the teacher classifies as they are labelled, in [0, 1]."""
    broken: int = 0
    """Images that could not be read; they have no logits."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each finished file of the folder, by its name; older folders have none."""

    def save(self, folder: Path) -> None:
        write_json(asdict(self), folder / "logits.json")

    @classmethod
    def load(cls, folder: Path) -> LogitsCard:
        file = folder / "logits.json"
        try:
            fields = json.loads(file.read_text())
            pairs = {name: tuple(fields[name]) for name in ("crop_scale", "crop_aspect") if name in fields}
            card = cls(**{**fields, **pairs})
            if not all(type(each) is int and each > 0 for each in (card.views, card.images, card.classes)):
                raise ValueError("expected whole numbers of views, images and classes")
            if not isinstance(card.digests, dict):
                raise ValueError("expected digests by the files' names")
            return card
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{file}: not the card of precomputed logits: {error}") from None

    def check_file(self, file: Path) -> None:
        """Reads a file of the folder to its end.

        Raises:
            DataError: it cannot be read, or is not what was written.
        """
        try:
            if file.name in self.digests and file_digest(file) != self.digests[file.name]:
                raise DataError(f"{file}: damaged: it is not what was written (SHA-256)")
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None

    def differences(self, wanted: Mapping[str, Any]) -> list[str]:
        """Those of the fields that are ``wanted`` which have another value here, in words."""
        own = asdict(self)
        return [
            f"{_WORDS.get(name, name)} = {str(own[name])[:40]}, this run has {str(value)[:40]}"
            for name, value in wanted.items()
            if own[name] != value
        ]


_WORDS = {
    "crop_scale": "augmentation.crop_scale",
    "crop_aspect": "augmentation.crop_aspect",
    "mirror": "augmentation.mirror",
    "fingerprint": "fingerprint of the images",
    "weights": "digest of the teacher's weights",
    "size": "side of the teacher's images",
}


def crops_card(images: ImageDataset, augmentation: Augmentation, seed: int) -> dict[str, Any]:
    """The fields of a ``LogitsCard`` that say which crops the logits are of."""
    return {
        "images": len(images),
        "classes": len(images.classes),
        "seed": seed,
        "crop_scale": tuple(augmentation.crop_scale),
        "crop_aspect": tuple(augmentation.crop_aspect),
        "mirror": augmentation.mirror,
        "fingerprint": fingerprint(images),
    }


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_view(folder: Path, view: int, card: LogitsCard) -> np.ndarray:
    """The logits of one view, mapped, after all of the file was compared with its digest.

    Raises:
        DataError: the file is missing, damaged, or of other images or classes.
    """
    file = view_file(folder, view)
    again = "the same shvit distill precompute makes it again"
    try:
        card.check_file(file)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, DataError) else f"{file}: cannot be read: {error}"
        raise DataError(f"{reason}; {again}") from None
    if (array.shape, array.dtype) != ((card.images, card.classes), HALF):
        raise DataError(
            f"{file}: expected {(card.images, card.classes)} logits in {HALF}, got {array.shape} in {array.dtype}; "
            f"{again}"
        )
    return array


def view_file(folder: Path, view: int) -> Path:
    """The logits of one view: ``float16 (images, classes)`` in NumPy's format; NaN for broken images."""
    return folder / f"view{view}.npy"


class PrecomputedTeacher:
    """Looks logits up that ``shvit distill precompute`` wrote.

    Raises:
        DataError: the logits were made for other images, other crops or another seed than this run's; they
            would teach the student about pictures that it does not see. Or they are not all there.
    """

    def __init__(self, folder: str | Path, dataset: ImageDataset, augmentation: Augmentation, seed: int) -> None:
        folder = Path(folder)
        card = LogitsCard.load(folder)
        if not card.complete:
            raise DataError(
                f"{folder}: the teacher was stopped half-way; start the same shvit distill precompute again"
            )
        different = card.differences(crops_card(dataset, augmentation, seed))
        if different:
            raise DataError(f"{folder}: logits were made with {different[0]}")
        self.views = card.views
        self._logits = [read_view(folder, view, card) for view in range(card.views)]

    def logits(self, indices: Tensor, epoch: int) -> Tensor:
        """What it said of the crops of that epoch: ``float32 (B, classes)`` on the CPU, for ``int64 (B,)``."""
        rows = self._logits[epoch % len(self._logits)][indices.numpy()]
        return torch.from_numpy(rows).float()


@dataclass
class TeacherNetwork:
    """A classifier with a head for the student's classes."""

    name: str
    body: nn.Module
    """Images to pooled features ``(B, features)``."""
    head: nn.Linear
    size: int
    """Side of its images, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    """Digest of all of its tensors as they were loaded."""

    def adapt(self, images: Tensor) -> Tensor:
        """The student's images ``(B, 3, H, W)``, ImageNet-normalised, as the teacher was trained on them."""

        def channels(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=images.device).view(1, 3, 1, 1)

        if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            pixels = images * channels(IMAGENET_STD) + channels(IMAGENET_MEAN)
            images = (pixels - channels(self.mean)) / channels(self.std)
        height, width = images.shape[-2:]
        if (height, width) == (self.size, self.size):
            return images
        rows, columns = (max(1, round(side * self.size / max(height, width))) for side in (height, width))
        resized = F.interpolate(images, (rows, columns), mode="bicubic", antialias=True)
        if rows == columns:
            return resized
        # In the middle of the teacher's square, among its mean colour: any teacher takes that, and no shape is bent.
        top, left = (self.size - rows) // 2, (self.size - columns) // 2
        return F.pad(resized, (left, self.size - columns - left, top, self.size - rows - top))

    def __call__(self, images: Tensor) -> Tensor:
        """The student's images ``(B, 3, H, W)``, ImageNet-normalised, to logits ``(B, classes)``."""
        body, head = self.body.to(images.device), self.head.to(images.device)
        return head(body(self.adapt(images)))


class LiveTeacher:
    """A teacher that is run on the student's own batch, at its own size and normalisation."""

    def __init__(self, network: TeacherNetwork) -> None:
        self.network = network

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What it says of the images that the student is given, mixed or not: ``(B, 3, H, W)``, ImageNet-normalised.

        The reference shows its teacher the mixed images. A precomputed teacher has seen the plain ones; its
        probabilities are mixed like labels instead.
        """
        return self.network(images)


def load_teacher(
    name: str,
    weights: str | Path | None,
    classes: tuple[ClassInfo, ...],
    size: int | None = None,
    task: TaskName | None = None,
) -> TeacherNetwork:
    """Builds a classifier and keeps the outputs of the student's classes.

    Args:
        name: a timm model, ``shvit_s1`` to ``shvit_s4`` with the published weights, or the file of a SHViT
            checkpoint, such as another run's ``best.safetensors``.
        weights: a timm model's state dict, ``.safetensors`` or ``.pth``; in a ``.pth`` names may differ as long as
            tensors come in timm's order. Without a file, timm fetches its own.
        classes: the student's. They are found among the teacher's by WordNet id, else by label; where the
            teacher's are not known and as many, they are taken to be the same.
        size: side of the images it is given, in pixels, 1 to ``MAX_SIDE``; its own when not said.
        task: the student's, which the teacher's has to be too; any when not given, as where its head is fitted.

    Raises:
        CheckpointError: there is no such model, the file's tensors are not this model's, its weights cannot be
            fetched, or it does not take images of that size.
        DataError: the teacher does not know all of the student's classes, or has another task.
    """
    if size is not None and not 1 <= size <= MAX_SIDE:
        raise CheckpointError(f"teacher {name}: expected images of 1 to {MAX_SIDE} pixels a side, got {size}")
    if Path(name).is_file() or name in VARIANTS:
        if weights is not None:
            raise CheckpointError(f"teacher {name}: takes no weights file; give a SHViT checkpoint itself as teacher")
        parts = _open_shvit(Path(name) if Path(name).is_file() else weights_file(name), size)
        name = short_path(name)
    else:
        parts = _open_timm(name, weights, size)
    rows = _match_classes(name, parts.classes, parts.head.out_features, classes)
    head = nn.Linear(parts.head.in_features, len(classes))
    with torch.no_grad():
        head.weight.copy_(parts.head.weight[rows])
        head.bias.copy_(parts.head.bias[rows] if parts.head.bias is not None else torch.zeros(len(rows)))
    own = parts.task or "classification"
    if task not in (None, own):
        raise DataError(
            f"teacher {name}: its task is {own}, its student's {task}, so that its logits say something else; fit its "
            "last layer to the labels with: shvit distill precompute --fit-head"
        )
    body = parts.body.eval().requires_grad_(False)
    return TeacherNetwork(name, body, head, parts.size, parts.mean, parts.std, parts.weights)


@dataclass
class _Parts:
    """A classifier taken apart, with all of its classes; ``None`` where they are not known."""

    body: nn.Module
    head: nn.Linear
    classes: Sequence[ClassInfo] | None
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    task: TaskName | None = None
    """What it was trained for, where that is known."""


def _open_shvit(file: Path, size: int | None) -> _Parts:
    model, checkpoint = load_model(file)
    if not model.num_classes:
        raise CheckpointError(f"{file}: has no head, so it cannot teach classes")
    network = inference_form(model)
    head = network.head
    assert isinstance(head, nn.Linear)
    network.reset_classifier(0)
    own_size = model.config.image_size
    preprocessing = stored_preprocessing(checkpoint)
    if preprocessing is not None:
        own_size = max(preprocessing.image_size)
    known = known_classes(checkpoint, model.num_classes)
    classes = None if known is None else known[0]
    if classes is not None and len(classes) != model.num_classes:
        raise CheckpointError(f"{file}: the network has {model.num_classes} classes, its metadata name {len(classes)}")
    return _Parts(
        network, head, classes, size or own_size, IMAGENET_MEAN, IMAGENET_STD, _digest(model), stored_task(checkpoint)
    )


def _open_timm(name: str, weights: str | Path | None, size: int | None) -> _Parts:
    if not timm.is_model(name) and ":" not in name:  # a colon: timm finds hub repositories and folders itself
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise CheckpointError(f"teacher {name}: neither a timm model nor a file{hint}")
    try:
        network: Any = timm.create_model(name, pretrained=weights is None)
    except Exception as error:  # timm's, the hub client's, or its HTTP library's
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"teacher {name}: weights cannot be fetched: {reason}; give a file of them") from None
    if weights is not None:
        _load(network, Path(weights))
    network = network.eval()
    config = resolve_data_config({}, model=network)
    size = size or config["input_size"][-1]
    digest, classes, head = _digest(network), _imagenet_classes(network.num_classes), network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise CheckpointError(f"teacher {name}: expected one linear layer at its end, got {type(head).__name__}")
    with torch.inference_mode():
        example = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        try:
            whole = network(example)
        except (AssertionError, RuntimeError) as error:
            raise CheckpointError(f"teacher {name}: does not take images of {size} x {size}: {error}") from None
        network.reset_classifier(0)
        if not torch.allclose(head(network(example)), whole, rtol=1e-3, atol=1e-3):
            raise CheckpointError(f"teacher {name}: its logits are not a linear layer of its pooled features")
    return _Parts(network, head, classes, size, tuple(config["mean"]), tuple(config["std"]), digest)


def _imagenet_classes(count: int) -> tuple[ClassInfo, ...] | None:
    """The classes of the part of ImageNet that has so many, with WordNet ids; ``None`` where none has."""
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    pairs = zip(info.label_descriptions(), info.label_names(), strict=True)
    return tuple(ClassInfo(place, label, wnid) for place, (label, wnid) in enumerate(pairs))


def _load(network: Any, file: Path) -> None:
    """Tensors by name, or in order where the names are others; safetensors keep no order."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; expected the teacher's weights")
    try:
        if zipfile.is_zipfile(file):
            with file.open("rb") as content:
                check_archive(content)
        with utf8_path(file) as named:
            source = load_state_dict(str(named), weights_only=True)
    except Exception as error:  # of many kinds: what torch, safetensors and their readers make of arbitrary bytes
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: cannot be read as a state dict: {reason}") from None
    names = _without_counters(network.state_dict())
    if set(names) <= set(source):
        found = {name: source[name] for name in names}
    elif file.suffix == ".safetensors":
        missing = next(name for name in names if name not in source)
        raise CheckpointError(f"{file}: expected timm's names of the teacher's tensors; there is no {missing}")
    else:
        given = _without_counters(source)
        if len(given) != len(names):
            raise CheckpointError(f"{file}: expected {len(names)} tensors of the teacher, got {len(given)}")
        found = {name: source[key] for name, key in zip(names, given, strict=True)}
    last = found.get(f"{network.pretrained_cfg['classifier']}.weight")
    if last is not None and len(last) != network.num_classes:
        network.reset_classifier(len(last))
    state = network.state_dict()
    for name, value in found.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{file}: {name} should have the shape {tuple(state[name].shape)}, got {tuple(value.shape)}"
            )
    network.load_state_dict(state | found)


def _without_counters(names: Mapping[str, Tensor]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _match_classes(name: str, known: Sequence[ClassInfo] | None, count: int, classes: Sequence[ClassInfo]) -> list[int]:
    """The teacher's outputs for the student's classes."""
    by_label = {each.label: each.class_id for each in known or ()}
    by_wnid = {each.wnid: each.class_id for each in known or () if each.wnid is not None}
    rows = [by_wnid[each.wnid] if each.wnid in by_wnid else by_label.get(each.label) for each in classes]
    found = [row for row in rows if row is not None]
    if len(found) == len(classes):
        return found
    if not found and count == len(classes):
        return list(range(count))
    unknown = [each.label for each, row in zip(classes, rows, strict=True) if row is None]
    raise DataError(
        f"teacher {name}: does not know {len(unknown)} of the {len(classes)} classes, such as {unknown[0]!r}; "
        f"it has {count}{'' if known else ' without names'}, matched by WordNet id or label"
    )


def teacher_targets(logits: Tensor, kind: Literal["soft", "hard"], temperature: float) -> Tensor:
    """What a teacher's logits ``(B, classes)`` ask of the student: probabilities ``(B, classes)``.

    Args:
        kind: ``soft``, the teacher's probabilities at that temperature (Hinton et al., 2015); ``hard``, all on its
            first class, as if that were the label (Touvron et al., 2021, "DeiT"), whatever the temperature.
    """
    if kind == "hard":
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (logits / temperature).softmax(dim=-1)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened probabilities, times the temperature squared so that gradients keep their size.

    It differs from the KL divergence of Hinton et al. by the teacher's entropy, a constant. DeiT's code, and the
    reference's with it, divides its soft loss by the number of classes as well, which leaves the teacher next to
    no weight; this one does not.

    Args:
        student: logits ``(B, classes)``.
        teacher: ``teacher_targets``, or several images' mixed.
        temperature: that of the targets; 1 for hard ones.
    """
    log_probabilities = (student / temperature).log_softmax(dim=-1)
    return -(teacher * log_probabilities).sum(dim=-1).mean() * temperature**2
