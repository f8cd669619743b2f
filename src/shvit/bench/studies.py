"""The paper's design choices, each beside its alternatives: what they cost, and how fast they are here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shvit.bench.cost import Cost, count_cost
from shvit.bench.networks import Session, deployed, export_all, random_network
from shvit.bench.speed import Conditions, Timed, time_files
from shvit.bench.summary import ratios

if TYPE_CHECKING:
    from shvit.models import SHViTConfig

RATIOS = (1 / 8, 1 / 4, 1 / 2, 1.0)
HEADS = (1, 2, 4)


@dataclass(frozen=True)
class Choice:
    """One network of a study."""

    study: str
    name: str
    config: SHViTConfig


@dataclass(frozen=True)
class StudyRow:
    """What a choice costs and how fast it is."""

    study: str
    name: str
    tokens: tuple[int, ...]
    """Of one image, in each stage."""
    cost: Cost
    timed: Timed
    speed_to_first: dict[str, float] | None
    """Throughput over that of the study's first choice: median and range of rounds."""

    @property
    def images_per_second(self) -> float | None:
        return self.timed.measurement.to_dict()["images_per_second"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "study": self.study,
            "name": self.name,
            "tokens": self.tokens,
            "parameters": self.cost.parameters,
            "macs": self.cost.macs,
            "memory_access_bytes": self.cost.bytes("fp32"),
            "speed_to_first": self.speed_to_first,
            **self.timed.to_dict(),
            "model": self.name,
        }


def macro_design(base: SHViTConfig) -> list[Choice]:
    """Stem stride and number of stages (section 2.1), the blocks' widths kept.

    With a fourth stage the widths and depths of ``base`` come later, after a first stage of half its first width, so
    that a stem of stride 8 or 4 leads to feature maps of the same strides.
    """
    before = replace(
        base,
        widths=(base.widths[0] // 2, *base.widths),
        depths=(base.depths[0], *base.depths),
        partial_dims=(max(1, base.partial_dims[0] // 2), *base.partial_dims),
        attention=(False, *base.attention),
    )
    return [
        Choice("macro", "stem 16, three stages", base),
        Choice("macro", "stem 8, three stages", replace(base, stem_stride=8)),
        Choice("macro", "stem 4, three stages", replace(base, stem_stride=4)),
        Choice("macro", "stem 8, four stages", replace(before, stem_stride=8)),
        Choice("macro", "stem 4, four stages", replace(before, stem_stride=4)),
    ]


def partial_design(base: SHViTConfig) -> list[Choice]:
    """The share of the channels that are attended (section 3.1), with one head."""
    shares = {f"1/{round(1 / ratio)} of the channels" if ratio < 1 else "all channels": ratio for ratio in RATIOS}
    return [
        Choice("partial", "as published", base),
        *(Choice("partial", name, base.with_partial_ratio(ratio)) for name, ratio in shares.items()),
    ]


def heads_design(base: SHViTConfig) -> list[Choice]:
    """Single- and multi-head attention (section 2.2): on all channels, as usual, beside one head on a part of them."""
    return [
        Choice("heads", "one head on a part, as published", base),
        *(
            Choice("heads", name, replace(base.with_partial_ratio(1.0), num_heads=heads))
            for heads in HEADS
            for name in [f"{heads} head{'s' * (heads > 1)} on all channels"]
            if all(width % heads == 0 for width in base.widths)
        ),
    ]


STUDIES: dict[str, Callable[[SHViTConfig], list[Choice]]] = {
    "macro": macro_design,
    "partial": partial_design,
    "heads": heads_design,
}


def run_studies(
    choices: Sequence[Choice], image_size: tuple[int, int], conditions: Conditions, session: Session
) -> list[StudyRow]:
    """Counts and times all choices in float32 with random weights, in one run; one that fails has its error.

    Args:
        image_size: height and width of the input, in pixels.
        conditions: one engine, thread count and batch size.
    """
    import torch

    from shvit.models import SHViT

    costs, files = [], []
    for choice in choices:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = random_network(choice.name, SHViT(choice.config), image_size)
        costs.append(count_cost(deployed(network), network.image_size))
        files += export_all(network, ["fp32"], session)
    timed = time_files(files, conditions, session.advance)
    rows = []
    for choice, cost, each in zip(choices, costs, timed, strict=True):
        first = timed[next(place for place, other in enumerate(choices) if other.study == choice.study)]
        both = (each.measurement.round_medians, first.measurement.round_medians)
        speed = ratios(*both) if all(both) else None
        tokens = tuple(math.prod(math.ceil(side / stride) for side in image_size) for stride in choice.config.strides)
        rows.append(StudyRow(choice.study, choice.name, tokens, cost, each, speed))
    return rows
