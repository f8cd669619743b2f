"""How well unknown things are told from known ones: the methods of OpenOOD v1.5 and that of `shvit calibrate`.

On equal terms: every score is computed from logits and pooled features alone, is higher for the less known, and is
measured on 2,000 of Tiny-ImageNet's validation pictures that nothing was fitted on. Near: things that are none of its
classes, in COCO's boxes and in photographs of other classes of ImageNet. Far: blobs, noise, flat colours, documents,
drawings, patterns, and blood cells. What is fitted sees known pictures (of the validation split, or of the training
split), the far pictures of other kinds that `shvit calibrate` makes, and, where it is said, one half of the
photographs; never a kind of far picture that it is measured on. ``without_nearest`` also leaves out, for each kind,
what was made that is most like it. ``called_unknown`` is what a user sees: the share above the limit that 95 % of the
known pictures that were fitted to stay below.

``known_coco`` is a control: COCO's boxes of classes that Tiny-ImageNet has too. A score that only tells where pictures
come from, and not what they show, tells them from COCO's unknown things no better than chance.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import unknown_pictures as measuring
from common import record
from networks import TEN, WEIGHTS, card_of, export_file, network_of, see, ten_classes
from shvit.calibration.made_pictures import EACH, KINDS, made_pictures
from shvit.calibration.outputs import Network, Outputs
from shvit.calibration.unknown import UnknownScore, fit_unknown
from shvit.data import open_dataset
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS

MEASURED = 2000
"""Known pictures that nothing is fitted on."""
MEASURED_MADE = 300
"""Made pictures of each kind that are measured."""
KEEP = 0.95
"""Share of the known pictures that is to stay below the limit."""
PICTURES_REMEMBERED = ("nearest_neighbours", "mahalanobis", "relative_mahalanobis", "residual", "vim", "nnguide")
"""Scores by what pictures they were fitted to, which themselves are nearer than any others: no limit for new ones."""

NEAR = ("coco", "photographs", "photographs_full")
FAR = (*measuring.MADE, "cells")
NEAREST = {
    "blobs": ("clouds",),
    "noise": ("grain",),
    "flat": ("gradients",),
    "documents": ("strokes",),
    "drawings": ("strokes", "mosaics"),
    "patterns": ("waves",),
}
"""Of kinds that are measured, those that are fitted on and most like them."""

Score = Callable[[Outputs], np.ndarray]


def some(outputs: Outputs, chosen: Any) -> Outputs:
    """By a mask, places or a slice."""
    return outputs.of(np.arange(len(outputs))[chosen])


def unknown_sets(data: Path) -> dict[str, list[Image.Image]]:
    """All pictures to measure on but the known ones, by set."""
    sets = {
        "coco": measuring.coco(data),
        "known_coco": measuring.coco(data, measuring.COCO_KNOWN),
        "photographs": measuring.photographs(data),
        "cells": measuring.cells(data),
    }
    for seed, (name, make) in enumerate(measuring.MADE.items()):
        rng = np.random.default_rng(seed)
        sets[name] = [make(rng) for _ in range(MEASURED_MADE)]
    encoded = {name: [measuring.as_jpeg(each) for each in pictures] for name, pictures in sets.items()}
    return {**encoded, "photographs_full": measuring.photographs_full(data)}


def published(known: Outputs, labels: np.ndarray) -> dict[str, Score]:
    """The methods that are compared, with what they need of known pictures; their papers' settings."""
    assert known.features is not None
    features, logits = known.features.astype(np.float64), known.logits
    mean, rng = features.mean(0), np.random.default_rng(0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    bank = rng.permutation(len(unit))[:4000]
    neighbours = min(10, len(bank) // 10)
    guide = unit[bank] * logsumexp(logits[bank], axis=1)[:, None]

    def nearest(to: np.ndarray, seen: Outputs) -> np.ndarray:
        own = seen.features / np.linalg.norm(seen.features, axis=1, keepdims=True)
        return np.partition(own @ to.T, -neighbours, axis=1)[:, -neighbours:]

    means = np.stack([features[labels == each].mean(0) for each in np.unique(labels)])
    within = features - means[np.searchsorted(np.unique(labels), labels)]
    inverse, inverse_all = (
        np.linalg.inv(ledoit_wolf(each, assume_centered=True)[0]) for each in (within, features - mean)
    )

    def squared(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        return ((rows @ of) * rows).sum(1)

    def mahalanobis(seen: Outputs) -> np.ndarray:
        to_means = 2 * seen.features @ inverse @ means.T - squared(means, inverse)
        return squared(seen.features, inverse) - to_means.max(1)

    directions = np.linalg.eigh(np.cov((features - mean).T))[1][:, :-128]  # all but the 128 principal ones

    def residual(seen: Outputs) -> np.ndarray:
        return np.linalg.norm((seen.features - mean) @ directions, axis=1)

    match = logits.max(1).mean() / residual(known).mean()
    return {
        "largest_probability": lambda seen: -softmax(seen.logits, axis=1).max(1),
        "largest_logit": lambda seen: -seen.logits.max(1),
        "energy": energy,
        "gen": gen,
        "nearest_neighbours": lambda seen: -nearest(unit[bank], seen).min(1),
        "mahalanobis": mahalanobis,
        "relative_mahalanobis": lambda seen: mahalanobis(seen) - squared(seen.features - mean, inverse_all),
        "residual": residual,
        "vim": lambda seen: match * residual(seen) + energy(seen),
        "nnguide": lambda seen: energy(seen) * nearest(guide, seen).mean(1),
    }


def energy(seen: Outputs) -> np.ndarray:
    return -logsumexp(seen.logits, axis=1)


def gen(seen: Outputs) -> np.ndarray:
    """Generalised entropy of the 100 largest probabilities."""
    largest = np.sort(softmax(seen.logits, axis=1), axis=1)[:, -100:]
    return (largest**0.1 * (1 - largest) ** 0.1).sum(1)


def separation(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """AUROC, and the share of unknown pictures taken for known where 95 % of the known ones are."""
    labels = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])
    area = roc_auc_score(labels, np.concatenate([known, unknown]))
    return {
        "auroc": round(float(area), 3),
        "fpr95": round(float((unknown <= np.quantile(known, 0.95)).mean()), 3),
    }


def measured(scored: Score, limit: float, known: Outputs, sets: dict[str, Outputs]) -> dict[str, Any]:
    """Of each set, how well it is told from the known pictures, and what share of it is above the limit."""
    of_known = scored(known)
    result: dict[str, Any] = {"known": {"called_unknown": _above(of_known, limit)}}
    for name, pictures in sets.items():
        of_set = scored(pictures)
        result[name] = {**separation(of_known, of_set), "called_unknown": _above(of_set, limit)}
    return result


def _above(scores: np.ndarray, limit: float) -> float:
    return round(float((scores > limit).mean()), 3)


def compared(
    fitting: Outputs,
    labels: np.ndarray,
    made: dict[str, Outputs],
    given: Outputs,
    known: Outputs,
    sets: dict[str, Outputs],
) -> dict[str, Any]:
    """Every score, fitted to some known pictures and measured on others.

    The published ones know no limit; where they have none of their own pictures to remember, it is fitted like ours.

    Args:
        labels: of the known pictures that are fitted to.
        given: unknown pictures that are learned from.
    """
    scores: dict[str, tuple[Score, float]] = {
        name: (each, float(np.quantile(each(fitting), KEEP))) for name, each in published(fitting, labels).items()
    }
    for name, unknown in (("fitted", None), ("fitted_with_unknown", given)):
        ours = fitted(fitting, made, unknown)
        scores[name] = (ours.of, ours.limit)
    result = {name: measured(*each, known, sets) for name, each in scores.items()}
    for name in PICTURES_REMEMBERED:
        for row in result[name].values():
            del row["called_unknown"]
    if "known_coco" in sets:
        for name, (each, limit) in scores.items():
            of_known = each(sets["known_coco"])
            result[name]["known_coco"] = separation(of_known, each(sets["coco"]))
            if name not in PICTURES_REMEMBERED:
                result[name]["known_coco"]["called_unknown"] = _above(of_known, limit)
    return result


def fitted(
    known: Outputs, made: dict[str, Outputs], unknown: Outputs | None, without: Sequence[str] = ()
) -> UnknownScore:
    return fit_unknown(known, [each for kind, each in made.items() if kind not in without], unknown, KEEP)


def study(network: Network, data: Path, sets: dict[str, list[Image.Image]]) -> dict[str, Any]:
    """Of one file of the shipped model: every method on every set, by what it was fitted on."""
    seen = {name: see(network, pictures) for name, pictures in sets.items()}
    made = {kind: see(network, made_pictures(kind)) for kind in KINDS}
    rng = np.random.default_rng(0)
    taught, held = np.array_split(rng.permutation(len(seen["photographs"])), 2)
    given = seen["photographs"].of(taught)
    seen["photographs"], seen["photographs_full"] = (seen[name].of(held) for name in NEAR[1:])

    val, train = (open_dataset(data / "tiny-imagenet", split) for split in ("val", "train"))
    order = rng.permutation(len(val))
    all_val = see(network, (val.read(int(index)) for index in order))
    labels = val.labels[order]
    known, rest = some(all_val, slice(MEASURED)), some(all_val, slice(MEASURED, None))
    chosen = rng.permutation(len(train))[:8000]
    sources = {
        "train_8000": (see(network, (train.read(int(index)) for index in chosen)), train.labels[chosen]),
        "val_8000": (rest, labels[MEASURED:]),
        "val_2000": (some(rest, slice(2000)), labels[MEASURED : MEASURED + 2000]),
        "val_200": (some(rest, slice(200)), labels[MEASURED : MEASURED + 200]),
    }
    result: dict[str, Any] = {
        source: compared(pictures, their_labels, made, given, known, seen)
        for source, (pictures, their_labels) in sources.items()
    }
    for name, unknown in (("fitted", None), ("fitted_with_unknown", given)):
        strict = {}
        for kind, alike in NEAREST.items():
            score = fitted(sources["val_2000"][0], made, unknown, alike)
            strict[kind] = measured(score.of, score.limit, known, {kind: seen[kind]})[kind]
        result["val_2000"][name]["without_nearest"] = strict
    return result


def of_ten_classes(models: Path, data: Path, sets: dict[str, list[Image.Image]]) -> dict[str, Any]:
    """The same of a network fine-tuned to ten of the classes, on 200 of their validation pictures.

    The other 190 classes are unknown and near: 100 pictures of one half of them are learned from, and 2,000 of the
    other half are measured.
    """
    path, about = ten_classes(data, models)
    network, rng = network_of(path), np.random.default_rng(0)
    val = open_dataset(data / "tiny-imagenet", "val")
    own = rng.permutation(np.flatnonzero(np.isin(val.labels, TEN)))
    others = rng.permutation([label for label in range(200) if label not in TEN])
    learned, unseen = (rng.permutation(np.flatnonzero(np.isin(val.labels, half))) for half in np.array_split(others, 2))

    def outputs(indices: np.ndarray) -> Outputs:
        return see(network, (val.read(int(index)) for index in indices))

    seen = {name: see(network, sets[name]) for name in ("coco", "photographs", *FAR)}
    seen["other_classes"] = outputs(unseen[:2000])
    made = {kind: see(network, made_pictures(kind)) for kind in KINDS}
    fitting, fresh = outputs(own[:200]), outputs(own[200:])
    said = [card_of(path).classes[place].label for place in fresh.logits.argmax(1)]
    right = np.array(
        [label == val.classes[index].label for label, index in zip(said, val.labels[own[200:]], strict=True)]
    )
    return {
        **about,
        "classes": len(TEN),
        "fitted_on": len(fitting),
        "measured_on": len(fresh),
        "top1": round(float(right.mean()), 3),
        **compared(fitting, val.labels[own[:200]], made, outputs(learned[:100]), fresh, seen),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with tiny-imagenet/, coco-tiny/, photographs/ and bccd/"
    )
    parser.add_argument("--models", type=Path, default=Path("runs/decisions"), help="folder for fine-tuned networks")
    args = parser.parse_args()
    args.models.mkdir(parents=True, exist_ok=True)
    threadpool_limits(1)  # several wait for one another on a busy machine
    sets = unknown_sets(args.data)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float32.onnx"
        export_file(WEIGHTS, plain)
        result = {
            name: study(network_of(path), args.data, sets)
            for name, path in (("int8", SHIPPED_MODELS[DEFAULT_MODEL]), ("float32", plain))
        }
    result["ten_classes"] = of_ten_classes(args.models, args.data, sets)
    counts = {**{name: len(pictures) for name, pictures in sets.items()}, "fitted_kinds": EACH}
    record("unknown", "python benchmarks/unknown.py --data DATA", {"sets": counts, **result})


if __name__ == "__main__":
    main()
