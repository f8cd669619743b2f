"""SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design (Yun & Ro, CVPR 2024).

The whole network, in the order in which an image meets it. Shapes are ``(B, C, H, W)``. Every module works
in training form (convolution + batch normalisation) and, after ``shvit.reparameterize``, in inference form,
where plain convolutions stand in the same places.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shvit.errors import ArgumentError
from shvit.models.hub import HubModel
from shvit.network.shapes import squeezed_width, stem_widths
from shvit.network.variants import Activation, SHViTConfig


def is_channels_last(x: Tensor) -> bool:
    """Whether a feature map's channels lie together in memory. In training all maps and their gradients should then:
    what combines two layouts, forwards or backwards, takes several times as long on a CPU."""
    return x.is_contiguous(memory_format=torch.channels_last)


class ConvNorm(nn.Module):
    """Convolution without a bias, then batch normalisation."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_weight: float = 1.0,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_dim)
        nn.init.constant_(self.norm.weight, norm_weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for a random part of the images."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


class DepthwiseConv(nn.Module):
    """``x + BN(DWConv3x3(x))``: local features, and the position of a token; with ``branches``, plus theirs."""

    def __init__(
        self, dim: int, norm_weight: float, drop_path: float = 0.0, branch_kernels: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.dw = ConvNorm(dim, dim, 3, groups=dim, norm_weight=norm_weight)
        self.branches = nn.ModuleList(
            ConvNorm(dim, dim, side, groups=dim, norm_weight=norm_weight) for side in branch_kernels
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dw(x)
        for branch in self.branches:
            y = y + branch(x)
        return x + self.drop_path(y)


class SquaredReLU(nn.Module):
    """``max(x, 0) ** 2``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "squared_relu": SquaredReLU,
    "hard_swish": nn.Hardswish,
}


class FeedForward(nn.Module):
    """``x + FFN(x)``: 1x1 to ``ratio`` times the width, ReLU or what stands for it, 1x1 back."""

    def __init__(
        self, dim: int, ratio: int, norm_weight: float, drop_path: float = 0.0, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.expand = ConvNorm(dim, dim * ratio)
        self.project = ConvNorm(dim * ratio, dim, norm_weight=norm_weight)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.project(self.activation(self.expand(x))))


class SingleHeadAttention(nn.Module):
    """``x + SHSA(x)``: attention on the first ``partial_dim`` channels only (section 3.1, equation 2).

    The remaining channels pass untouched, and the projection mixes both. ``num_heads`` > 1 splits the same
    channels into heads, for the paper's comparison with multi-head attention; ``attention_gate`` is beyond the paper.
    """

    def __init__(self, config: SHViTConfig, stage: int, drop_path: float = 0.0) -> None:
        super().__init__()
        dim, partial_dim = config.widths[stage], config.partial_dims[stage]
        self.num_heads = config.num_heads
        self.split_dims = (partial_dim, dim - partial_dim)
        self.qkv_dims = config.qkv_dims(stage)
        self.scale = config.qk_dim**-0.5
        self.norm = nn.GroupNorm(1, partial_dim)
        self.qkv = ConvNorm(partial_dim, sum(self.qkv_dims))
        self.project = ConvNorm(dim, dim, norm_weight=0)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        attended, rest = x.split(self.split_dims, dim=1)
        attended = self.mix(self.norm(attended))
        if self.training and is_channels_last(x):
            attended = attended.contiguous(memory_format=torch.channels_last)
        return x + self.drop_path(self.project(torch.cat((attended, rest), dim=1).relu()))

    def mix(self, x: Tensor) -> Tensor:
        """The attended channels ``(B, partial_dim, H, W)``, each token a mean of all, weighted by attention."""
        q, k, v, *gate = self.qkv(x).split(self.qkv_dims, dim=1)
        # One image's tokens as columns: (B, channels, H, W) -> (B, heads, channels of a head, H·W).
        q, k, v = (part.flatten(2).unflatten(1, (self.num_heads, -1)) for part in (q, k, v))
        mixed = (v @ self.attend(q, k).transpose(-2, -1)).reshape(x.shape)
        return mixed * gate[0].sigmoid() if gate else mixed

    def attend(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries and keys ``(B, heads, qk_dim, H·W)`` to attention weights ``(B, heads, H·W, H·W)``."""
        if self.scale != 1:  # folded into the queries' weights for deployment
            q = q * self.scale
        return (q.transpose(-2, -1) @ k).softmax(dim=-1)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means, through a quarter of the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = squeezed_width(dim)
        self.reduce = nn.Conv2d(dim, hidden, 1)
        self.expand = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True))

    def gate(self, means: Tensor) -> Tensor:
        """Channels' means ``(B, C, 1, 1)`` to their factors, in [0, 1]."""
        return self.expand(self.reduce(means).relu()).sigmoid()


class PatchMerging(nn.Module):
    """Halves the height and the width, and changes the number of channels, through 4 times the width."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        hidden = in_dim * 4
        self.expand = ConvNorm(in_dim, hidden)
        self.dw = ConvNorm(hidden, hidden, 3, stride=2, groups=hidden)
        self.squeeze_excite = SqueezeExcite(hidden)
        self.project = ConvNorm(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dw(self.expand(x).relu()).relu()
        return self.project(self.squeeze_excite(x))


class Block(nn.Sequential):
    """Depthwise convolution, single-head attention where the stage has it, feed-forward network."""

    def __init__(self, config: SHViTConfig, stage: int, block: int, drop_path: float) -> None:
        dim = config.widths[stage]
        super().__init__()
        self.local = DepthwiseConv(dim, 0, drop_path, config.branch_kernels)
        if config.attends(stage, block):
            self.attention = SingleHeadAttention(config, stage, drop_path)
        self.ffn = FeedForward(dim, config.mlp_ratio, 0, drop_path, config.activation)


class Downsample(nn.Sequential):
    """Patch merging between two stages, with local layers at the old width before and at the new one after."""

    def __init__(self, config: SHViTConfig, stage: int) -> None:
        super().__init__()
        (in_dim, out_dim), ratio = config.widths[stage - 1 : stage + 1], config.mlp_ratio
        branches, activation = config.branch_kernels, config.activation
        self.local_in = DepthwiseConv(in_dim, 1, branch_kernels=branches)
        self.ffn_in = FeedForward(in_dim, ratio, 1, activation=activation)
        self.merge = PatchMerging(in_dim, out_dim)
        self.local_out = DepthwiseConv(out_dim, 1, branch_kernels=branches)
        self.ffn_out = FeedForward(out_dim, ratio, 1, activation=activation)


class Stage(nn.Module):
    """Downsampling (in all stages but the first), then blocks of one width."""

    def __init__(self, config: SHViTConfig, stage: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if stage > 0:
            self.downsample = Downsample(config, stage)
        self.blocks = nn.Sequential(
            *(Block(config, stage, block, probability) for block, probability in enumerate(drop_path))
        )
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class Head(nn.Module):
    """Batch normalisation of the pooled features, then a linear classifier."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class DistilledLogits(NamedTuple):
    """What a network with two heads returns in training, each ``(B, num_classes)``."""

    logits: Tensor
    """The head that learns from the labels."""
    distilled: Tensor
    """The head that learns from the teacher."""


class SHViT(
    nn.Module,
    HubModel,
    library_name="shvit",
    tags=["image-classification", "shvit"],
    license="mit",
):
    """The SHViT image classifier.

    Takes images ``(B, in_chans, H, W)`` of any size, normalised with ImageNet's mean and standard deviation,
    and returns logits ``(B, num_classes)``; with ``num_classes=0`` the pooled features ``(B, num_features)``.
    With ``distillation`` it returns ``DistilledLogits`` in training, and the mean of the two in evaluation.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are Hugging Face Hub's.

    Example:
        >>> model = SHViT(SHViTConfig(num_classes=10)).eval()
        >>> model(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 10])
    """

    def __init__(self, config: SHViTConfig) -> None:
        super().__init__()
        self.config = config
        self.folded = False  # set by reparameterize
        stem: list[nn.Module] = []
        for in_dim, out_dim in pairwise(stem_widths(config)):
            stem += [ConvNorm(in_dim, out_dim, 3, stride=2), nn.ReLU()]
        self.stem = nn.Sequential(*stem[:-1])  # no ReLU after the last
        blocks = sum(config.depths)
        drop_path = [config.drop_path * block / max(blocks - 1, 1) for block in range(blocks)]
        starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
        self.stages = nn.ModuleList(
            Stage(config, stage, drop_path[start : start + depth])
            for stage, (start, depth) in enumerate(zip(starts, config.depths, strict=True))
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head: nn.Module = nn.Identity()
        self.head_dist: nn.Module | None = None
        self.reset_classifier(config.num_classes, distillation=config.distillation)

    @property
    def num_features(self) -> int:
        """Channels of the pooled features: of the last feature map, with ``head_stages`` of the last ones together."""
        return self.config.num_features

    def reset_classifier(self, num_classes: int, distillation: bool = False) -> None:
        """Replaces the head by a fresh one for ``num_classes`` classes; 0 removes it.

        Raises:
            ValueError: the network is folded, which only evaluates; or a second head was asked for without classes.
        """
        if self.folded and num_classes:
            raise ArgumentError("reset_classifier: a folded network cannot be trained; reset the one it came from")
        self.config = replace(self.config, num_classes=num_classes, distillation=distillation)
        self.num_classes = num_classes
        self.head = self._fresh_head() if num_classes else nn.Identity()
        self.head_dist = self._fresh_head() if distillation else None

    def _fresh_head(self) -> Head:
        """In the mode, on the device and of the type that the network is in."""
        body = next(self.stem.parameters())
        return Head(self.num_features, self.num_classes).to(body.device, body.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass: less memory, about a third more time."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Which tensors make a layer, from the input to the head, as timm's layer-wise learning rates ask for it."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+)\.downsample", (-1,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        )
        return {"stem": r"^stem", "blocks": blocks}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, in_chans, H, W)`` to the last feature map ``(B, widths[-1], H/64, W/64)``, rounded up."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and those of the stages asked for.

        Args:
            x: images ``(B, in_chans, H, W)``.
            indices: which stages' feature maps, negative counting from the end; an ``int`` n asks for the
                last n; ``None`` for all.

        Raises:
            IndexError: there is no such stage.
        """
        wanted = self._stage_indices(indices)
        maps = {}
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in wanted:
                maps[index] = x
        return x, [maps[index] for index in wanted]

    def _stage_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.stages)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise IndexError(f"indices: expected 1 to {count} feature maps, got {indices}")
            return list(range(count - indices, count))
        for index in indices:
            if not -count <= index < count:
                raise IndexError(f"indices: the network has {count} stages, there is no stage index {index}")
        return [index % count for index in indices]

    def forward_head(self, x: Tensor | Sequence[Tensor], pre_logits: bool = False) -> Tensor | DistilledLogits:
        """The last feature map to logits; with ``pre_logits`` to the pooled features ``(B, num_features)``.

        Args:
            x: the map; with ``head_stages`` above 1 the last ones, in their order.
        """
        means = [self._pool(each) for each in ([x] if isinstance(x, Tensor) else x)]
        pooled = self.dropout(means[0] if len(means) == 1 else torch.cat(means, dim=1))
        if pre_logits:
            return pooled
        if self.head_dist is None:
            return self.head(pooled)
        both = DistilledLogits(self.head(pooled), self.head_dist(pooled))
        return both if self.training else (both.logits + both.distilled) / 2

    def _pool(self, x: Tensor) -> Tensor:
        if self.training and is_channels_last(x):
            return x.permute(0, 2, 3, 1).mean((1, 2))  # so that its gradient is, too
        return x.mean((2, 3))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor | DistilledLogits:
        """Images ``(B, in_chans, H, W)`` to logits; with ``pre_logits`` to pooled features ``(B, num_features)``."""
        return self.forward_head(self.forward_intermediates(x, self.config.head_stages)[1], pre_logits)


class FeatureInfo(NamedTuple):
    """Channels, stride and name of one feature map."""

    num_chs: int
    reduction: int
    module: str


class FeatureInfoList(tuple[FeatureInfo, ...]):
    """What detection frameworks ask of a backbone, under the names that timm uses."""

    def channels(self) -> list[int]:
        return [info.num_chs for info in self]

    def reduction(self) -> list[int]:
        return [info.reduction for info in self]

    def module_name(self) -> list[str]:
        return [info.module for info in self]


class SHViTFeatures(nn.Module):
    """A backbone: images to a list of feature maps, strides 16, 32 and 64 in the published variants."""

    def __init__(self, model: SHViT, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        self.out_indices = model._stage_indices(out_indices)
        model.reset_classifier(0)
        # Stages past the last one asked for would only cost time.
        del model.stages[max(self.out_indices) + 1 :]
        self.model = model
        self.feature_info = FeatureInfoList(
            FeatureInfo(model.config.widths[index], model.config.strides[index], f"stages.{index}")
            for index in self.out_indices
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(x, self.out_indices)[1]
