"""Networks by name, with or without weights."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

from shvit.errors import ArgumentError
from shvit.hub.fetch import fetch
from shvit.hub.names import parse_reference
from shvit.models.checkpoints import load_checkpoint
from shvit.models.shvit import SHViT, SHViTFeatures
from shvit.network.variants import VARIANTS
from shvit.shipped import nearest_network


def list_models() -> list[str]:
    """Names that ``create_model`` knows."""
    return list(VARIANTS)


@overload
def create_model(
    name: str,
    pretrained: bool | str | Path = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    distillation: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    features_only: Literal[False] = False,
    out_indices: Sequence[int] | None = None,
) -> SHViT: ...


@overload
def create_model(
    name: str,
    pretrained: bool | str | Path = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    distillation: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
) -> SHViTFeatures: ...


def create_model(
    name: str,
    pretrained: bool | str | Path = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    distillation: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
) -> SHViT | SHViTFeatures:
    """Builds a published variant.

    Args:
        name: ``shvit_s1`` to ``shvit_s4``.
        pretrained: ``True`` fetches ImageNet-1k weights from the Hugging Face Hub (``timm/shvit_s1.in1k``), a name
            such as ``shvit_s1@revision`` or ``hf://user/repository`` those of a repository; a path loads a checkpoint
            of any known format.
        num_classes: outputs; 0 gives pooled features. 1000 when not given.
        in_chans: input channels.
        distillation: a second head, for training with a teacher.
        dropout: probability before the head.
        drop_path: stochastic depth of the last block.
        features_only: a backbone that returns feature maps instead of logits.
        out_indices: which stages' maps; all when not given.

    Raises:
        ValueError: there is no such variant, or a value that no network can be built with.
        CheckpointError: the weights cannot be fetched or loaded.
    """
    if name not in VARIANTS:
        close = nearest_network(name) or next(iter(difflib.get_close_matches(name.lower(), VARIANTS, n=1)), None)
        hint = f"; did you mean {close}?" if close else ""
        raise ArgumentError(f"name: no model {name!r}; known: {', '.join(VARIANTS)}{hint}")
    config = replace(
        VARIANTS[name],
        num_classes=VARIANTS[name].num_classes if num_classes is None else num_classes,
        in_chans=in_chans,
        distillation=distillation,
        dropout=dropout,
        drop_path=drop_path,
    )
    model = SHViT(config)
    if pretrained:
        load_checkpoint(model, weights_file(name if pretrained is True else pretrained))
    return SHViTFeatures(model, out_indices) if features_only else model


def weights_file(weights: str | Path) -> Path:
    """The file behind a name on the hub (``shvit_s4``, ``hf://user/repository``), fetched if it is not here; or a path.

    Raises:
        ArgumentError: it looks like a name and is none.
        CheckpointError: the hub cannot be reached and the cache does not have it.
    """
    reference = parse_reference(str(weights))
    return Path(weights) if reference is None else fetch(reference, wanted="weights").file
