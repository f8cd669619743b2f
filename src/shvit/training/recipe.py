"""A training run as one typed object: the same in Python, in YAML and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, get_args, get_origin, get_type_hints

from shvit.card import Preprocessing, TaskName
from shvit.data.transforms import Augmentation
from shvit.errors import ArgumentError
from shvit.network.sides import in_words, sides


def _check_range(where: str, owner: object, names: tuple[str, ...], low: float, high: float | None = None) -> None:
    """Refuses values under ``low`` or, where there is a ``high``, from it on."""
    for name in names:
        value = getattr(owner, name)
        if value < low or (high is not None and value >= high):
            expected = f"{low} or more" if high is None else f"{low} <= {name} < {high}"
            raise ArgumentError(f"{where}{name}: expected {expected}, got {value}")


def _check_choices(where: str, owner: object) -> None:
    """Refuses values that a field's ``Literal`` does not have; Python does not look at them."""
    for name, hint in get_type_hints(type(owner)).items():
        literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        known = [choice for each in literals for choice in get_args(each)]
        value = getattr(owner, name)
        if known and value not in known and not (value is None and type(None) in get_args(hint)):
            raise ArgumentError(f"{where}{name}: expected one of {', '.join(known)}, got {value!r}")


HeadStart = Literal["random", "linear"]


@dataclass(frozen=True)
class Optimizer:
    """AdamW or Muon with a linear warm-up and a cosine down to the smallest rate."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: the weights of convolutions, but for depthwise ones, take steps of orthogonal matrices (Jordan et al.,
    2024) of about AdamW's size, so that weight_decay means the same and lr may be twice as large; all other parameters
    are AdamW's with Nesterov momentum. It learns more in few steps, each of which costs a little more."""
    lr: float = 1e-3
    """Largest learning rate, for a batch of lr_batch_size images."""
    lr_batch_size: int = 512
    """The rate used is lr x batch_size / lr_batch_size; 0 uses lr as it is."""
    weight_decay: float = 0.025
    """Decoupled weight decay; biases and normalisations have none."""
    warmup_epochs: float = 1.0
    """Epochs over which the rate rises from warmup_lr; parts of an epoch count."""
    warmup_lr: float = 0.0
    """Rate of the first step when there is a warm-up; not scaled by the batch."""
    min_lr: float = 1e-5
    """Rate at the end; not scaled by the batch."""
    layer_decay: float = 1.0
    """Factor on the rate from each block to the one before it, in (0, 1]: below 1, fine-tuning moves early blocks
    less than late ones."""
    clip_grad: float = 5.0
    """Where gradients are clipped, see clip_mode; 0 does not clip."""
    clip_mode: Literal["norm", "agc"] = "norm"
    """norm: clip_grad is the largest norm of all gradients together. agc: adaptive gradient clipping (Brock et al.,
    2021), clip_grad is the largest ratio of a unit's gradient to its weights; the head is left out."""

    def __post_init__(self) -> None:
        names = ("lr", "min_lr", "warmup_lr", "weight_decay", "warmup_epochs", "clip_grad", "lr_batch_size")
        _check_range("optimizer.", self, names, 0)
        if not 0 < self.layer_decay <= 1:
            raise ArgumentError(f"optimizer.layer_decay: expected 0 < layer_decay <= 1, got {self.layer_decay}")
        _check_choices("optimizer.", self)


@dataclass(frozen=True)
class Distillation:
    """Learning from a teacher beside the labels (Hinton et al., 2015; Touvron et al., 2021)."""

    logits: str | None = None
    """Folder that ``shvit distill precompute`` wrote: the teacher's logits on fixed crops."""
    teacher: str | None = None
    """A timm model's name, or a SHViT checkpoint's file, to run beside the student instead."""
    teacher_weights: str | None = None
    """File with the timm teacher's weights; without one they come from the hub."""
    kind: Literal["soft", "hard"] = "soft"
    """soft: match the teacher's probabilities. hard: take its first class for a label; of several labels, all that it
    finds more probable than not."""
    two_heads: bool = False
    """A second head that learns from the teacher while the first learns from the labels, as in the reference;
    their logits are averaged at inference."""
    alpha: float = 0.8
    """Weight of the teacher's part of the loss, in [0, 1]; the labels have the rest."""
    temperature: float = 2.0
    """Divides both logits; above 1 it shows more of what the teacher thinks of wrong classes. For soft only."""

    def __post_init__(self) -> None:
        if self.logits and self.teacher:
            raise ArgumentError("distillation: give logits (precomputed) or teacher (live), not both")
        if self.teacher_weights and not self.teacher:
            raise ArgumentError("distillation.teacher_weights: no teacher is named")
        if self.two_heads and not (self.logits or self.teacher):
            raise ArgumentError(
                "distillation.two_heads: the second head learns from a teacher; name one, or its logits"
            )
        if not 0 <= self.alpha <= 1:
            raise ArgumentError(f"distillation.alpha: expected 0 to 1, got {self.alpha}")
        if self.temperature <= 0:
            raise ArgumentError(f"distillation.temperature: expected more than 0, got {self.temperature}")
        _check_choices("distillation.", self)


@dataclass(frozen=True)
class MultiLabelLoss:
    """What is learnt from where a picture has any number of labels."""

    loss: Literal["bce", "asymmetric"] = "bce"
    """bce: binary cross-entropy; scores are then probabilities. asymmetric: the one below, for many rare labels or
    missing ones; its scores are too high for what is not there."""
    gamma_negative: float = 4.0
    """asymmetric: how much less a class counts the surer the network is that it is not there, rightly; 0 or more."""
    gamma_positive: float = 0.0
    """asymmetric: the same where it is there."""
    margin: float = 0.05
    """asymmetric: probability below which a class that is not there does not count at all, in [0, 1)."""

    def __post_init__(self) -> None:
        _check_range("multi_label.", self, ("gamma_negative", "gamma_positive"), 0)
        _check_range("multi_label.", self, ("margin",), 0, 1)
        _check_choices("multi_label.", self)


@dataclass(frozen=True)
class Recipe:
    """How to train one model on one dataset."""

    model: str = "shvit_s1"
    """Variant: shvit_s1 to shvit_s4."""
    pretrained: str | None = None
    """Start from a checkpoint file, from a repository (``hf://user/name``), or from ``hub`` for the variant's ImageNet
    weights."""
    head_start: HeadStart = "random"
    """What the head begins as where the pretrained one is of other classes. random: small random weights. linear: a
    logistic regression on the features that the network has as it is loaded, its strength chosen by cross-validation;
    the whole network is fine-tuned from there (linear probing, then fine-tuning: Kumar et al., 2022)."""
    task: TaskName | None = None
    """classification: one label for a picture. multi_label: any number. Without it, what the data have."""
    image_size: str | int = 224
    """Side of the training and evaluation images, in pixels; or height and width, such as 160x320."""
    image_size_start: int | None = None
    """Side in the first epoch, a multiple of 32; it grows to image_size in steps of 32. Small images train several
    times faster. Where image_size is not square it is of the shorter side; the longer one keeps the proportion."""
    resize_mode: Literal["crop", "squash", "pad"] = "crop"
    """crop: evaluation cuts the centre out. squash: it resizes whatever the shape. pad: it shows the whole image and
    fills what is left with pad_color. Training takes random crops in the same way."""
    pad_color: tuple[int, int, int] = Preprocessing.pad_color
    """RGB, each 0 to 255; for resize_mode pad. The default is ImageNet's mean."""
    crop_ratio: float = 0.875
    """Evaluation, resize_mode crop: share of the resized short side that the centre crop keeps."""
    epochs: int = 30
    """Passes over the training images. 0, with head_start linear, keeps the fitted head and trains nothing else."""
    batch_size: int = 128
    """Images in one optimizer step, over all processes."""
    seed: int = 0
    """Decides initialisation, order and augmentation."""
    val_share: float = 0.1
    """Share of each class held out for validation where the data has no validation split, in (0, 1)."""
    image_key: str | None = None
    """Of tar shards with several images under one key, the extension of the one that is meant: jpg, left.jpg."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    repeats: int = 1
    """Repeated augmentation (Hoffer et al., 2020): how often each image comes in a row, augmented differently.
    An epoch has as many steps as without."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that mixup draws its share from; 0 is off."""
    cutmix: float = 0.0
    """The same for cutmix; with both on, each batch takes one of the two, half of the time each."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes, in [0, 1); with several labels, of each towards one half."""
    multi_label: MultiLabelLoss = field(default_factory=MultiLabelLoss)
    class_weights: bool = False
    """Weigh each class by the inverse of its frequency, so that rare classes count as much as frequent ones."""
    dropout: float = 0.0
    """Probability of dropping a feature before the head, in [0, 1)."""
    drop_path: float = 0.0
    """Stochastic depth of the last block, in [0, 1)."""
    freeze_norm: bool = False
    """Keep batch normalisations as they were loaded, statistics and weights: for small batches and large images."""
    sync_norm: bool = False
    """Batch normalisation over the images of all processes instead of each process's own."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights that is evaluated and kept; 0 is off."""
    ema_warmup: bool = True
    """Start with a fast average that slows down to ema_decay, so that short runs profit too."""
    early_stopping: int = 0
    """Stop after so many epochs without a better one on the validation set (see best.safetensors in
    docs/training.md); 0 never stops early."""
    distillation: Distillation = field(default_factory=Distillation)
    quantization_aware: bool = False
    """Fine-tune the folded network with the rounding of an int8 export, for when that loses too much; the weights
    kept are folded, and measured in 8 bits. Needs pretrained."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning Fabric's name of the arithmetic: 32-true, bf16-mixed or 16-mixed."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss that is not finite does: stop the run, or skip the step and count it."""
    broken_share: float = 0.01
    """Share of the images that may turn out unreadable before the run is refused; they are left out, in [0, 1)."""

    def __post_init__(self) -> None:
        size = sides(self.image_size)
        # One spelling of each, so that a run goes on whichever it is resumed with.
        object.__setattr__(self, "image_size", size[0] if size[0] == size[1] else in_words(size))
        object.__setattr__(self, "pad_color", tuple(self.pad_color))
        Preprocessing(size, self.crop_ratio, pad_color=self.pad_color)  # what a model file's card may say
        self._check_image_size_start()
        _check_range("", self, ("epochs",), 0 if self.head_start == "linear" else 1)
        _check_range("", self, ("batch_size", "repeats"), 1)
        _check_range("", self, ("mixup", "cutmix", "seed", "early_stopping"), 0)
        shares = ("label_smoothing", "dropout", "drop_path", "ema_decay", "broken_share", "val_share")
        _check_range("", self, shares, 0, 1)
        if self.repeats > self.batch_size:
            raise ArgumentError(
                f"repeats: {self.repeats} copies of an image do not fit into a batch of {self.batch_size}"
            )
        if self.repeats > 1 and self.distillation.logits:
            raise ArgumentError("repeats: precomputed logits know one crop of each image and view; use a live teacher")
        if self.freeze_norm and self.pretrained is None:
            raise ArgumentError("freeze_norm: needs pretrained; fresh normalisations have nothing worth keeping")
        if self.freeze_norm and self.sync_norm:
            raise ArgumentError("sync_norm: frozen normalisations (freeze_norm) have no statistics to synchronise")
        if self.head_start == "linear" and self.pretrained is None:
            raise ArgumentError("head_start: linear needs pretrained; the features of a fresh network tell nothing")
        if self.head_start == "linear" and self.task == "multi_label":
            raise ArgumentError("head_start: linear is for one label a picture, not for task multi_label")
        if self.quantization_aware:
            self._check_quantization_aware()
        if self.distillation.logits and (self.resize_mode != "crop" or size[0] != size[1]):
            raise ArgumentError(
                f"distillation.logits: precomputed logits are of square crops, not of images of {in_words(size)} with "
                f"resize_mode {self.resize_mode}; use a live teacher (distillation.teacher)"
            )
        _check_choices("", self)

    def _check_image_size_start(self) -> None:
        start, end = self.image_size_start, min(self.sides)
        allowed = [*range(GROWTH, end, GROWTH), end]
        if start is None or start in allowed:
            return
        near: list[int] = []
        if isinstance(start, Integral):
            near = sorted(sorted(allowed, key=lambda each: abs(each - start))[:2])
        nearest = f"; nearest: {' or '.join(map(str, near))}" if near else ""
        what = "image_size" if self.sides == (end, end) else "the shorter side"
        raise ArgumentError(
            f"image_size_start: expected a multiple of {GROWTH} pixels below {what}, or {what} itself ({end}), "
            f"got {start!r}{nearest}"
        )

    def _check_quantization_aware(self) -> None:
        if self.pretrained is None:
            raise ArgumentError("quantization_aware: needs pretrained; train the network in float32 first")
        if self.precision != "32-true":
            raise ArgumentError(
                f"quantization_aware: needs precision 32-true to hold 8-bit levels, got {self.precision}"
            )
        if self.distillation.two_heads:
            raise ArgumentError("quantization_aware: a folded network has one head; leave distillation.two_heads out")
        if self.head_start == "linear":
            raise ArgumentError("quantization_aware: the head is good already; leave head_start linear out")
        if self.dropout:
            raise ArgumentError("quantization_aware: dropout changes the ranges to be learnt; leave it out")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return sides(self.image_size)

    def image_size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training images in an epoch, counted from 0."""
        shorter = min(self.sides)
        start = self.image_size_start or shorter
        if self.epochs == 1 or start == shorter or epoch >= self.epochs - 1:
            return self.sides
        grown = round((start + (shorter - start) * epoch / (self.epochs - 1)) / GROWTH) * GROWTH
        if grown >= shorter:
            return self.sides
        height, width = (round(side * grown / shorter / GROWTH) * GROWTH for side in self.sides)
        return height, width


GROWTH = 32
"""Pixels by which training images grow."""


@dataclass(frozen=True)
class Execution:
    """Where and how a recipe is run. A run may be resumed with another one; on one process, only ``device`` changes
    its result."""

    device: str = "auto"
    """cpu, cuda, mps or auto."""
    devices: int = 1
    """Processes on this machine, one a GPU (or so many on the CPU)."""
    nodes: int = 1
    """Machines that take part, each started with the same command, see docs/training/multi-node.md."""
    workers: int = 2
    """Decoding processes beside each training process; 0 decodes in the training process."""
    checkpoint_every_steps: int = 0
    """Write a checkpoint after so many steps too, not only after each epoch; 0 for epochs only."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on the disk."""

    @property
    def processes(self) -> int:
        """How many train together, over all machines."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        _check_range("", self, ("devices", "nodes", "keep_checkpoints"), 1)
        _check_range("", self, ("workers", "checkpoint_every_steps"), 0)
        if self.device not in DEVICES:
            raise ArgumentError(f"device: expected one of {', '.join(DEVICES)}, got {self.device!r}")


DEVICES = ("auto", "cpu", "cuda", "mps")
