"""The published variants, and the configuration that also expresses the paper's design studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal, get_args

from shvit.errors import ArgumentError, check_positive

STEM_STRIDES = (4, 8, 16)

Activation = Literal["relu", "squared_relu", "hard_swish"]
"""What stands in the middle of a feed-forward network."""

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@dataclass(frozen=True)
class SHViTConfig:
    """Everything that decides a SHViT's shape; the defaults are SHViT-S1 (paper, table 1).

    Raises:
        ValueError: a field has a value no network can be built from; the message names the field.
    """

    widths: tuple[int, ...] = (128, 224, 320)
    """Channels of each stage; three or four stages."""
    depths: tuple[int, ...] = (2, 4, 5)
    """Blocks of each stage."""
    partial_dims: tuple[int, ...] = (32, 48, 68)
    """Attended channels of each stage: the first ones; the rest pass the attention by. Unused in a stage
    without attention."""
    attention: tuple[bool, ...] = (False, True, True)
    """Which stages have attention (the published variants: all but the first)."""
    num_heads: int = 1
    """Attention heads on the attended channels. 1 is SHViT; more is the multi-head study of section 2.2."""
    qk_dim: int = 16
    """Channels of a query and of a key, for each head."""
    stem_stride: int = 16
    """Stride of the patchify stem: 4, 8 or 16, from two, three or four stride-2 convolutions (section 2.1)."""
    mlp_ratio: int = 2
    """Hidden width of a feed-forward network, as a multiple of the stage's width."""
    attention_step: int = 1
    """Which blocks of a stage with attention have it: its last, and every so many before; 1 is all of them. This and
    the next four are not in the paper (docs/studies/beyond.md)."""
    attention_gate: bool = False
    """What the attention gives is multiplied, channel by channel and token by token, with a sigmoid of a linear layer
    of what it was given (iFormer, ICLR 2025)."""
    activation: Activation = "relu"
    """In the middle of each feed-forward network. squared_relu: So et al., 2021; hard_swish: Howard et al., 2019."""
    branch_kernels: tuple[int, ...] = ()
    """Sides, 1 or 3, of branches that each residual depthwise convolution has beside it in training, each with a
    normalisation of its own (MobileOne, CVPR 2023). Folded they are part of its kernel and cost nothing."""
    head_stages: int = 1
    """How many of the last stages' pooled features the head reads; they add up (EfficientViM, CVPR 2025)."""
    image_size: int = 224
    """Side of the input, in pixels, that the variant was made for. Any other size works."""
    in_chans: int = 3
    """Input channels."""
    num_classes: int = 1000
    """Outputs of the head; 0 leaves the pooled features."""
    distillation: bool = False
    """A second head, trained on the teacher; at inference the logits of the two are averaged."""
    dropout: float = 0.0
    """Dropout probability before the head, in [0, 1)."""
    drop_path: float = 0.0
    """Stochastic depth: the last block's probability, rising linearly from 0 at the first, in [0, 1)."""

    def __post_init__(self) -> None:
        self._check_types()
        stages = len(self.widths)
        if stages not in (3, 4):
            raise ArgumentError(f"widths: expected 3 or 4 stages, got {stages}: {self.widths}")
        for field in ("depths", "partial_dims", "attention"):
            value = getattr(self, field)
            if len(value) != stages:
                raise ArgumentError(f"{field}: expected {stages} values, one a stage as in widths, got {value}")
        if self.stem_stride not in STEM_STRIDES:
            raise ArgumentError(f"stem_stride: expected one of {STEM_STRIDES}, got {self.stem_stride}")
        stem_divisor = self.stem_stride // 2
        if self.widths[0] < stem_divisor or self.widths[0] % stem_divisor:
            raise ArgumentError(
                f"widths: the first must be a multiple of {stem_divisor} with stem_stride={self.stem_stride}, "
                f"got {self.widths[0]}"
            )
        if any(width < 4 for width in self.widths):
            raise ArgumentError(f"widths: expected at least 4 channels in each stage, got {self.widths}")
        for field in ("depths", "partial_dims"):
            if any(value < 1 for value in getattr(self, field)):
                raise ArgumentError(f"{field}: expected positive values, got {getattr(self, field)}")
        for field in ("num_heads", "qk_dim", "mlp_ratio", "attention_step", "image_size", "in_chans"):
            check_positive(field, getattr(self, field))
        if self.activation not in ACTIVATIONS:
            raise ArgumentError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if len(self.branch_kernels) > MAX_BRANCHES or any(side not in (1, 3) for side in self.branch_kernels):
            raise ArgumentError(
                f"branch_kernels: expected at most {MAX_BRANCHES} sides, each 1 or 3, got {self.branch_kernels}"
            )
        if not 1 <= self.head_stages <= stages:
            raise ArgumentError(f"head_stages: expected 1 to {stages}, the number of stages, got {self.head_stages}")
        for stage in range(stages):
            width, partial = self.widths[stage], self.partial_dims[stage]
            if not self.attention[stage]:
                continue
            if partial > width:
                raise ArgumentError(f"partial_dims: stage {stage + 1} has {width} channels, cannot attend {partial}")
            if partial % self.num_heads:
                raise ArgumentError(
                    f"num_heads: {self.num_heads} heads cannot share the {partial} attended channels of "
                    f"stage {stage + 1} equally"
                )
        if self.num_classes < 0:
            raise ArgumentError(f"num_classes: expected 0 (features) or more, got {self.num_classes}")
        for field in ("dropout", "drop_path"):
            if not 0 <= getattr(self, field) < 1:
                raise ArgumentError(f"{field}: expected a probability in [0, 1), got {getattr(self, field)}")
        if self.distillation and self.num_classes == 0:
            raise ArgumentError("distillation: a second head needs num_classes > 0")

    def _check_types(self) -> None:
        """Takes lists for tuples, as JSON has them, and NumPy's integers for integers."""

        def take(field: str, expected: str, convert: Callable[[Any], Any]) -> None:
            value = getattr(self, field)
            try:
                object.__setattr__(self, field, convert(value))
            except (TypeError, ValueError):
                raise ArgumentError(f"{field}: expected {expected}, got {value!r}") from None

        for field in ("widths", "depths", "partial_dims"):
            take(field, "whole numbers, one a stage", lambda value: tuple(index(each) for each in value))
        take("branch_kernels", "whole numbers", lambda value: tuple(index(each) for each in value))
        take("attention", "true or false for each stage", lambda value: tuple(bool(index(each)) for each in value))
        for field in ("num_heads", "qk_dim", "stem_stride", "mlp_ratio", "image_size", "in_chans", "num_classes"):
            take(field, "a whole number", index)
        for field in ("attention_step", "head_stages"):
            take(field, "a whole number", index)
        for field in ("distillation", "attention_gate"):
            take(field, "true or false", lambda value: bool(index(value)))
        for field in ("dropout", "drop_path"):
            take(field, "a number", float)

    def with_partial_ratio(self, ratio: float) -> SHViTConfig:
        """The same network with ``ratio`` of each stage's channels attended (section 3.1, figure 6).

        Args:
            ratio: share of the channels, in (0, 1]; rounded to a multiple of ``num_heads``, at least one each.
        """
        if not 0 < ratio <= 1:
            raise ArgumentError(f"ratio: expected a share in (0, 1], got {ratio}")
        heads = self.num_heads
        return replace(self, partial_dims=tuple(max(1, round(width * ratio / heads)) * heads for width in self.widths))

    def attends(self, stage: int, block: int) -> bool:
        """Whether a block, counted from 0 in its stage, has attention."""
        return self.attention[stage] and (self.depths[stage] - 1 - block) % self.attention_step == 0

    def qkv_dims(self, stage: int) -> tuple[int, ...]:
        """Channels of the queries, keys and values of a stage's attention, and of its gate where it has one."""
        queries, values = self.qk_dim * self.num_heads, self.partial_dims[stage]
        return (queries, queries, values) + ((values,) if self.attention_gate else ())

    @property
    def num_features(self) -> int:
        """Channels of the pooled features, which the head reads."""
        return sum(self.widths[-self.head_stages :])

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's feature map with respect to the image."""
        return tuple(self.stem_stride * 2**stage for stage in range(len(self.widths)))


MAX_BRANCHES = 8
"""More branches beside a convolution than anybody trains with."""

VARIANTS: dict[str, SHViTConfig] = {
    "shvit_s1": SHViTConfig(),
    "shvit_s2": SHViTConfig(widths=(128, 308, 448), partial_dims=(32, 66, 96)),
    "shvit_s3": SHViTConfig(widths=(192, 352, 448), depths=(3, 5, 5), partial_dims=(48, 75, 96)),
    "shvit_s4": SHViTConfig(widths=(224, 336, 448), depths=(4, 7, 6), partial_dims=(48, 72, 96), image_size=256),
}
"""SHViT-S1 to S4 (paper, table 1)."""
