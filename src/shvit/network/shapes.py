"""Which tensors a network has, under our names, in PyTorch's order, and of what shape."""

from __future__ import annotations

from itertools import pairwise

from shvit.network.variants import SHViTConfig

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: SHViTConfig, folded: bool = False) -> Shapes:
    """Every tensor of a network's state, as ``SHViT(config).state_dict()`` has them.

    Args:
        folded: of the inference form, where plain convolutions stand in the places of convolutions and normalisations.
    """
    return _Outline(config, folded).shapes


def stem_widths(config: SHViTConfig) -> list[int]:
    """Channels before the stem's convolutions and after each."""
    steps = config.stem_stride.bit_length() - 1
    return [config.in_chans] + [config.widths[0] >> shift for shift in reversed(range(steps))]


def squeezed_width(width: int) -> int:
    """Channels within squeeze-excite: a quarter, as a multiple of 8, as in the published weights."""
    return max(8, (width // 4 + 4) // 8 * 8)


class _Outline:
    """The walk from the image to the logits; ``models/shvit.py`` says what each layer is."""

    def __init__(self, config: SHViTConfig, folded: bool) -> None:
        self._config, self._folded = config, folded
        self.shapes: Shapes = {}
        for place, (before, after) in enumerate(pairwise(stem_widths(config))):
            self._conv(f"stem.{2 * place}", before, after, 3)  # a ReLU stands between each two
        for stage, width in enumerate(config.widths):
            if stage > 0:
                self._downsample(f"stages.{stage}.downsample", config.widths[stage - 1], width)
            for block in range(config.depths[stage]):
                self._block(f"stages.{stage}.blocks.{block}", stage, config.attends(stage, block))
        if config.num_classes:
            self._head("head")
        if config.distillation and not folded:
            self._head("head_dist")

    def _conv(self, name: str, before: int, after: int, kernel: int = 1, groups: int = 1) -> None:
        weight = (after, before // groups, kernel, kernel)
        if self._folded:
            self.shapes |= {f"{name}.weight": weight, f"{name}.bias": (after,)}
        else:
            self.shapes[f"{name}.conv.weight"] = weight
            self._norm(f"{name}.norm", after)

    def _norm(self, name: str, width: int) -> None:
        self.shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        self.shapes[f"{name}.num_batches_tracked"] = ()

    def _local(self, name: str, width: int) -> None:
        self._conv(name if self._folded else f"{name}.dw", width, width, 3, groups=width)
        if not self._folded:
            for place, side in enumerate(self._config.branch_kernels):
                self._conv(f"{name}.branches.{place}", width, width, side, groups=width)

    def _feed_forward(self, name: str, width: int) -> None:
        hidden = width * self._config.mlp_ratio
        self._conv(f"{name}.expand", width, hidden)
        self._conv(f"{name}.project", hidden, width)

    def _downsample(self, name: str, before: int, after: int) -> None:
        self._local(f"{name}.local_in", before)
        self._feed_forward(f"{name}.ffn_in", before)
        hidden = 4 * before
        squeezed = squeezed_width(hidden)
        self._conv(f"{name}.merge.expand", before, hidden)
        self._conv(f"{name}.merge.dw", hidden, hidden, 3, groups=hidden)
        for part, (given, made) in (("reduce", (hidden, squeezed)), ("expand", (squeezed, hidden))):
            self.shapes[f"{name}.merge.squeeze_excite.{part}.weight"] = (made, given, 1, 1)
            self.shapes[f"{name}.merge.squeeze_excite.{part}.bias"] = (made,)
        self._conv(f"{name}.merge.project", hidden, after)
        self._local(f"{name}.local_out", after)
        self._feed_forward(f"{name}.ffn_out", after)

    def _block(self, name: str, stage: int, attention: bool) -> None:
        config = self._config
        width, partial = config.widths[stage], config.partial_dims[stage]
        self._local(f"{name}.local", width)
        if attention:
            if not self._folded:
                self.shapes |= {f"{name}.attention.norm.{part}": (partial,) for part in ("weight", "bias")}
            self._conv(f"{name}.attention.qkv", partial, sum(config.qkv_dims(stage)))
            self._conv(f"{name}.attention.project", width, width)
        self._feed_forward(f"{name}.ffn", width)

    def _head(self, name: str) -> None:
        width, classes = self._config.num_features, self._config.num_classes
        linear = name if self._folded else f"{name}.linear"
        if not self._folded:
            self._norm(f"{name}.norm", width)
        self.shapes |= {f"{linear}.weight": (classes, width), f"{linear}.bias": (classes,)}
