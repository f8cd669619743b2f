"""Teachers: live ones, and logits computed beforehand on the crops that the student will see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, resolve_data_config
from torch import Tensor, nn

from shvit.data.datasets import ImageDataset, fingerprint
from shvit.data.transforms import Augmentation
from shvit.errors import CheckpointError, DataError
from shvit.runtime.card import ClassInfo


class Teacher(Protocol):
    """Gives logits ``(B, classes)`` in the student's class order."""

    views: int | None
    """How many crops of each image it knows; ``None`` when it takes any."""

    def logits(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """For images ``uint8 (B, H, W, 3)``, which are ``indices`` of the dataset."""


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

    def save(self, folder: Path) -> None:
        (folder / "logits.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> LogitsCard:
        file = folder / "logits.json"
        try:
            fields = json.loads(file.read_text())
            return cls(**{**fields, "crop_scale": tuple(fields["crop_scale"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: not the card of precomputed logits: {error}") from None


def view_file(folder: Path, view: int) -> Path:
    """The logits of one view: ``float16 (images, classes)`` in NumPy's format."""
    return folder / f"view{view}.npy"


class PrecomputedTeacher:
    """Looks logits up that ``shvit distill`` wrote.

    Raises:
        DataError: the logits were made for other images, other crops or another seed than this run's; they
            would teach the student about pictures that it does not see.
    """

    def __init__(self, folder: str | Path, dataset: ImageDataset, augmentation: Augmentation, seed: int) -> None:
        folder = Path(folder)
        card = LogitsCard.load(folder)
        for name, made_for, wanted in (
            ("images", card.images, len(dataset)),
            ("classes", card.classes, len(dataset.classes)),
            ("seed", card.seed, seed),
            ("augmentation.crop_scale", card.crop_scale, tuple(augmentation.crop_scale)),
            ("augmentation.mirror", card.mirror, augmentation.mirror),
            ("fingerprint of the images", card.fingerprint, fingerprint(dataset)),
        ):
            if made_for != wanted:
                raise DataError(f"{folder}: logits were made with {name} = {made_for}, this run has {wanted}")
        self.views: int | None = card.views
        self._logits = []
        for view in range(card.views):
            file = view_file(folder, view)
            try:
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: cannot be read: {error}") from None
            if array.shape != (card.images, card.classes):
                raise DataError(f"{file}: expected {(card.images, card.classes)} logits, got {array.shape}")
            self._logits.append(array)

    def logits(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        rows = self._logits[epoch % len(self._logits)][indices.cpu().numpy()]
        return torch.from_numpy(rows).to(images.device, torch.float32)


@dataclass
class TeacherNetwork:
    """A timm classifier with a head for the student's classes."""

    name: str
    body: nn.Module
    """Images to pooled features ``(B, features)``."""
    head: nn.Linear
    size: int
    mean: Tensor
    std: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """``uint8 (B, H, W, 3)`` to what the teacher was trained on, resized where the size is another."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        pixels = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
        if pixels.shape[-2:] == (self.size, self.size):
            return pixels
        return F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)

    def __call__(self, images: Tensor) -> Tensor:
        """``uint8 (B, H, W, 3)`` to logits ``(B, classes)``, on the images' device."""
        body, head = self.body.to(images.device), self.head.to(images.device)
        return head(body(self.normalize(images)))


def load_teacher(
    name: str, weights: str | Path | None, classes: tuple[ClassInfo, ...], size: int | None = None
) -> TeacherNetwork:
    """Builds a timm ImageNet-1k classifier and keeps the outputs of the student's classes.

    Args:
        name: a timm model.
        weights: its state dict; names may differ as long as tensors come in timm's order. Without a file,
            timm fetches its own.
        classes: the student's; WordNet ids say which ImageNet class is which.
        size: side of the images it is given; its own when not said.

    Raises:
        CheckpointError: the file's tensors are not this model's.
        DataError: classes have no WordNet id that ImageNet-1k knows.
    """
    network: Any = timm.create_model(name, pretrained=weights is None)
    if weights is not None:
        _load_in_order(network, Path(weights))
    config = resolve_data_config({}, model=network)
    imagenet = ImageNetInfo().label_names()
    unknown = [each.label for each in classes if each.wnid not in imagenet]
    if unknown:
        raise DataError(f"teacher {name}: {len(unknown)} classes are not in ImageNet-1k, such as {unknown[0]!r}")
    rows = [imagenet.index(each.wnid) for each in classes]
    classifier = network.get_classifier()
    head = nn.Linear(classifier.in_features, len(classes))
    head.load_state_dict({"weight": classifier.weight.data[rows], "bias": classifier.bias.data[rows]})
    network.reset_classifier(0)
    mean, std = (torch.tensor(config[key]).view(1, 1, 1, 3) for key in ("mean", "std"))
    body = network.eval().requires_grad_(False)
    return TeacherNetwork(name, body, head, size or config["input_size"][-1], mean, std)


def _load_in_order(network: nn.Module, file: Path) -> None:
    try:
        source = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file}: cannot be read as a state dict: {error}") from None
    given = [value for key, value in source.items() if not key.endswith("num_batches_tracked")]
    state = network.state_dict()
    names = [key for key in state if not key.endswith("num_batches_tracked")]
    if len(given) != len(names):
        raise CheckpointError(f"{file}: expected {len(names)} tensors of the teacher, got {len(given)}")
    for key, value in zip(names, given, strict=True):
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"{file}: {key} should have the shape {tuple(state[key].shape)}, got {tuple(value.shape)}"
            )
        state[key] = value
    network.load_state_dict(state)


class LiveTeacher:
    """A teacher that is run on the student's own batch, at its own size and normalisation."""

    views: int | None = None

    def __init__(self, network: TeacherNetwork) -> None:
        self.network = network

    @torch.no_grad()
    def logits(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        return self.network(images)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened probabilities, times the temperature squared so that gradients keep their size.

    It differs from the KL divergence of Hinton et al. by the teacher's entropy, a constant.

    Args:
        student: logits ``(B, classes)``.
        teacher: probabilities ``(B, classes)``, softened by the same temperature.
    """
    log_probabilities = (student / temperature).log_softmax(dim=-1)
    return -(teacher * log_probabilities).sum(dim=-1).mean() * temperature**2
