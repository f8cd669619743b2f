from __future__ import annotations

import pytest

from shvit.card import Card, ClassInfo, Preprocessing
from shvit.models import SHViT, SHViTConfig

from ..models.test_reparam import randomized

TINY = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(8, 8, 16), num_classes=4)
SIZE = (128, 192)


@pytest.fixture(scope="session")
def tiny() -> SHViT:
    """The least that has every layer, for converters that take seconds."""
    return randomized(TINY).float()


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    return Card("tiny", "shvit", tuple(ClassInfo(i, label) for i, label in enumerate("abcd")), Preprocessing(SIZE))
