"""Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019) for images with several targets each.

torchvision's transforms mix class indices only; distillation needs the teacher's probabilities mixed too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def mix(
    images: Tensor, targets: Sequence[Tensor], mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Mixes each image with its mirror place in the batch, and the targets in the same proportion.

    Args:
        images: ``(B, C, H, W)``, overwritten.
        targets: each ``(B, classes)``, probabilities.
        mixup: alpha of mixup, 0 for never.
        cutmix: alpha of cutmix, 0 for never; with both, one of the two is drawn for the batch.
        rng: decides everything.
    """
    if not mixup and not cutmix:
        return images, list(targets)
    partner = images.flip(0)
    if not mixup or (cutmix and rng.random() < 0.5):
        share = float(rng.beta(cutmix, cutmix))
        height, width = images.shape[-2:]
        side = float(np.sqrt(1 - share))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        half_h, half_w = int(height * side / 2), int(width * side / 2)
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        images[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        share = 1 - float((bottom - top) * (right - left)) / (height * width)
    else:
        share = float(rng.beta(mixup, mixup))
        images = images.mul_(share).add_(partner, alpha=1 - share)
    return images, [target * share + target.flip(0) * (1 - share) for target in targets]
