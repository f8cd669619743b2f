"""The linear layer that makes logits of pooled features, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits of pooled features."""

    weight: np.ndarray
    """``float32 (classes, channels)``."""
    bias: np.ndarray
    """``float32 (classes,)``."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """``float32 (N, classes)`` of ``float32 (N, channels)``."""
        return features @ self.weight.T + self.bias
