"""A network in inference form, as its configuration and its arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shvit.network.folding import fold
from shvit.network.shapes import tensor_shapes
from shvit.network.variants import VARIANTS, SHViTConfig

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, eq=False)
class FoldedNetwork:
    """What a model file is written from.

    Example:
        >>> FoldedNetwork.of(config, tensors).arrays["head.weight"].dtype
        dtype('float32')
    """

    config: SHViTConfig
    arrays: Mapping[str, np.ndarray]
    """As ``tensor_shapes(config, folded=True)`` names them, in float32."""
    unfolded: Mapping[str, np.ndarray] | None = None
    """What they were folded from, where it is kept for a format that stores it."""

    @classmethod
    def of(cls, config: SHViTConfig, tensors: Mapping[str, np.ndarray], folded: bool = False) -> FoldedNetwork:
        """From tensors under our names, folded here or already.

        Args:
            folded: they are of the inference form.
        """
        arrays = {name: each.astype(np.float32) for name, each in tensors.items()} if folded else fold(config, tensors)
        return cls(replace(config, distillation=False, branch_kernels=()), arrays)

    @property
    def architecture(self) -> str:
        """The variant's name, or ``shvit`` for a configuration of one's own."""
        return next((name for name, each in VARIANTS.items() if _is_same_body(each, self.config)), "shvit")

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(each.size for each in self.arrays.values())

    def macs(self, image_size: Size) -> int:
        """Multiply-accumulates for one image.

        Convolutions and matrix products, five for each element that a GroupNorm sees and one for each element
        that is pooled, as fvcore counts and most papers report.
        """
        config = self.config
        (height, width), total = image_size, 0
        for name, shape in tensor_shapes(config, folded=True).items():
            if (name.startswith("stem.") and name.endswith(".weight")) or name.endswith(".merge.dw.weight"):
                height, width = -(-height // 2), -(-width // 2)
            tokens = height * width
            if name.endswith(".weight"):
                total += math.prod(shape) * (1 if "squeeze_excite" in name or name == "head.weight" else tokens)
            if name.endswith(".attention.qkv.weight"):
                partial = shape[1]
                total += tokens**2 * (config.qk_dim * config.num_heads + partial) + 5 * partial * tokens
        return total + sum(
            width * math.prod(-(-side // stride) for side in image_size)
            for width, stride in list(zip(config.widths, config.strides, strict=True))[-config.head_stages :]
        )


def _is_same_body(one: SHViTConfig, other: SHViTConfig) -> bool:
    """Whether two configurations are of one body, whatever its head, its input channels and its training."""
    parts = ("widths", "depths", "partial_dims", "attention", "num_heads", "qk_dim", "stem_stride", "mlp_ratio")
    beyond = ("attention_step", "attention_gate", "activation", "branch_kernels", "head_stages")
    return all(getattr(one, part) == getattr(other, part) for part in parts + beyond)
