"""A training run as one typed object: the same in Python, in YAML and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from shvit.data.transforms import Augmentation


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a linear warm-up and a cosine down to the smallest rate."""

    lr: float = 1e-3
    """Largest learning rate, for a batch of 512; the rate used is proportional to the batch size."""
    weight_decay: float = 0.025
    """Decoupled weight decay; biases and normalisations have none."""
    warmup_epochs: float = 1.0
    """Epochs over which the rate rises from 0; parts of an epoch count."""
    min_lr: float = 1e-5
    """Rate at the end."""
    clip_grad: float = 5.0
    """Largest norm of the gradients; 0 does not clip."""

    def __post_init__(self) -> None:
        for name in ("lr", "min_lr", "weight_decay", "warmup_epochs", "clip_grad"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}: expected 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Distillation:
    """Soft distillation (Hinton et al., 2015): the student also matches a teacher's probabilities."""

    logits: str | None = None
    """Folder that ``shvit distill`` wrote: the teacher's logits on fixed crops."""
    teacher: str | None = None
    """Name of a timm model to run beside the student instead."""
    teacher_weights: str | None = None
    """File with the timm teacher's weights; without one they come from the hub."""
    alpha: float = 0.8
    """Weight of the teacher's part of the loss, in [0, 1]; the labels have the rest."""
    temperature: float = 2.0
    """Divides both logits; above 1 it shows more of what the teacher thinks of wrong classes."""

    def __post_init__(self) -> None:
        if self.logits and self.teacher:
            raise ValueError("distillation: give logits (precomputed) or teacher (live), not both")
        if self.teacher_weights and not self.teacher:
            raise ValueError("distillation.teacher_weights: no teacher is named")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"distillation.alpha: expected 0 to 1, got {self.alpha}")
        if self.temperature <= 0:
            raise ValueError(f"distillation.temperature: expected more than 0, got {self.temperature}")


@dataclass(frozen=True)
class Recipe:
    """How to train one model on one dataset."""

    model: str = "shvit_s1"
    """Variant: shvit_s1 to shvit_s4."""
    pretrained: str | None = None
    """Start from a checkpoint file, or from ``hub`` for the variant's ImageNet weights."""
    image_size: int = 224
    """Side of the training and evaluation images, in pixels."""
    image_size_start: int | None = None
    """Side in the first epoch; it grows to image_size in steps of 32. Small images train several times faster."""
    crop_ratio: float = 0.875
    """Evaluation: share of the resized short side that the centre crop keeps."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images in one optimizer step, over all processes."""
    seed: int = 0
    """Decides initialisation, order and augmentation."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixup: float = 0.0
    """Alpha of the Beta distribution that mixup draws its share from; 0 is off."""
    cutmix: float = 0.0
    """The same for cutmix; with both on, each batch takes one of the two."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes, in [0, 1)."""
    drop_path: float = 0.0
    """Stochastic depth of the last block."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights that is evaluated and kept; 0 is off."""
    distillation: Distillation = field(default_factory=Distillation)
    precision: str = "32-true"
    """Lightning Fabric's precision: 32-true, bf16-mixed or 16-mixed."""
    workers: int = 2
    """Processes that decode and augment; 0 does it in the training process."""

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("mixup", "cutmix", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("label_smoothing", "drop_path", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio: expected 0 < crop_ratio <= 1, got {self.crop_ratio}")
        if self.image_size_start is not None and not 0 < self.image_size_start <= self.image_size:
            raise ValueError(
                f"image_size_start: expected 1 to image_size ({self.image_size}), got {self.image_size_start}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    def image_size_at(self, epoch: int) -> int:
        """Side of the training images in an epoch, counted from 0."""
        start = self.image_size_start or self.image_size
        if self.epochs == 1 or start == self.image_size:
            return self.image_size
        grown = start + (self.image_size - start) * epoch / (self.epochs - 1)
        return min(self.image_size, round(grown / 32) * 32) if epoch < self.epochs - 1 else self.image_size


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
