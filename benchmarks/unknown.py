"""How well unknown things are told from known ones: the methods of OpenOOD v1.5 and a fitted score, on equal terms.

Every score is computed from logits and pooled features alone, is higher for the less known, and is measured on 2,000
of Tiny-ImageNet's validation pictures that nothing was fitted on. Near: things that are none of its classes, in COCO's
boxes and in photographs of other classes of ImageNet. Far: blobs, noise, flat colours, documents, drawings, patterns,
and blood cells. What is fitted sees known pictures (of the validation split, or of the training split), far pictures
of other kinds that are made for it, and, where it is said, one half of the photographs; never a kind of far picture
that it is measured on. ``without_nearest`` also leaves out, for each kind, what was made that is most like it.

``known_coco`` is a control: COCO's boxes of classes that Tiny-ImageNet has too. A score that only tells where pictures
come from, and not what they show, tells them from COCO's unknown things no better than chance.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

import unknown_pictures as made
from common import record
from shvit.data import open_dataset
from shvit.engines.onnx_graph import pooled_features
from shvit.engines.onnxruntime import ONNXRuntimeEngine
from shvit.images.preprocess import ImageSource
from shvit.network.graph import deployment_graph
from shvit.network.loading import load_folded
from shvit.predicting.classifier import Classifier
from unknown_score import fit, score

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "src" / "shvit" / "assets" / "shvit_s1_tiny_imagenet.onnx"
WEIGHTS = ROOT / "weights" / "shvit_s1_tiny_imagenet.safetensors"
MEASURED = 2000
"""Known pictures that nothing is fitted on."""
EACH = 300
"""Pictures of each made kind."""
TASK = 20
"""Classes of the small task, of which the other 180 are unknown."""

NEAR = ("coco", "photographs", "photographs_full")
FAR = (*made.MADE, "cells")
NEAREST = {
    "blobs": ("clouds",),
    "noise": ("grain",),
    "flat": ("gradients",),
    "documents": ("strokes",),
    "drawings": ("strokes", "mosaics"),
    "patterns": ("waves",),
}
"""Of kinds that are measured, those that are fitted on and most like them."""


class Seen(NamedTuple):
    """What a network gives for some pictures."""

    features: np.ndarray
    """``(N, channels)``."""
    logits: np.ndarray
    """``(N, classes)``."""

    def of(self, chosen: Any) -> Seen:
        return Seen(self.features[chosen], self.logits[chosen])


Score = Callable[[Seen], np.ndarray]


class Network:
    """A model file of ``shvit export``, for features and logits of pictures."""

    def __init__(self, path: Path) -> None:
        self._prepare = Classifier(path, threads=1).preprocess
        self._engine = ONNXRuntimeEngine(path, 1, [str(pooled_features(path.read_bytes()))])

    def see(self, pictures: Iterable[ImageSource]) -> Seen:
        parts, batch = [], []
        for picture in pictures:
            batch.append(self._prepare(picture))
            if len(batch) == 32:
                parts.append(self._infer(batch))
                batch = []
        parts += [self._infer(batch)] if batch else []
        return Seen(*(np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True)))

    def _infer(self, batch: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits, extra = self._engine.infer_with_outputs(np.stack(batch))
        return next(iter(extra.values())), logits


def unknown_sets(data: Path) -> dict[str, list[Image.Image]]:
    """All pictures but the known ones, by set; made pictures from seeds."""
    sets = {
        "coco": made.coco(data),
        "known_coco": made.coco(data, made.COCO_KNOWN),
        "photographs": made.photographs(data),
        "cells": made.cells(data),
    }
    for seed, (name, make) in enumerate({**made.MADE, **made.FITTED}.items()):
        rng = np.random.default_rng(seed)
        sets[name] = [make(rng) for _ in range(EACH)]
    encoded = {name: [made.as_jpeg(each) for each in pictures] for name, pictures in sets.items()}
    return {**encoded, "photographs_full": made.photographs_full(data)}


def published(known: Seen, labels: np.ndarray) -> dict[str, Score]:
    """The methods that are compared, with what they need of known pictures; their papers' settings."""
    features, logits = known
    mean, rng = features.mean(0), np.random.default_rng(0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    bank = rng.permutation(len(unit))[:4000]
    neighbours = min(10, len(bank) // 10)
    guide = unit[bank] * logsumexp(logits[bank], axis=1)[:, None]

    def nearest(to: np.ndarray, seen: Seen) -> np.ndarray:
        own = seen.features / np.linalg.norm(seen.features, axis=1, keepdims=True)
        return np.partition(own @ to.T, -neighbours, axis=1)[:, -neighbours:]

    means = np.stack([features[labels == each].mean(0) for each in np.unique(labels)])
    within = features - means[np.searchsorted(np.unique(labels), labels)]
    inverse, inverse_all = (
        np.linalg.inv(ledoit_wolf(each, assume_centered=True)[0]) for each in (within, features - mean)
    )

    def squared(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        return ((rows @ of) * rows).sum(1)

    def mahalanobis(seen: Seen) -> np.ndarray:
        to_means = 2 * seen.features @ inverse @ means.T - squared(means, inverse)
        return squared(seen.features, inverse) - to_means.max(1)

    directions = np.linalg.eigh(np.cov((features - mean).T))[1][:, :-128]  # all but the 128 principal ones

    def residual(seen: Seen) -> np.ndarray:
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


def energy(seen: Seen) -> np.ndarray:
    return -logsumexp(seen.logits, axis=1)


def gen(seen: Seen) -> np.ndarray:
    """Generalised entropy of the 100 largest probabilities."""
    largest = np.sort(softmax(seen.logits, axis=1), axis=1)[:, -100:]
    return (largest**0.1 * (1 - largest) ** 0.1).sum(1)


def fitted(known: Seen, far: Sequence[Seen], near: Seen | None = None) -> Score:
    arrays = fit(known, far, near)
    return lambda seen: score(seen.features, seen.logits, arrays)


def separation(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """AUROC, and the share of unknown pictures taken for known where 95 % of the known ones are."""
    labels = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])
    area = roc_auc_score(labels, np.concatenate([known, unknown]))
    return {
        "auroc": round(float(area), 3),
        "fpr95": round(float((unknown <= np.quantile(known, 0.95)).mean()), 3),
    }


def measured(scored: Score, known: Seen, sets: dict[str, Seen], names: Sequence[str]) -> dict[str, Any]:
    of_known = scored(known)
    return {name: separation(of_known, scored(sets[name])) for name in names}


def study(network: Network, data: Path, sets: dict[str, list[Image.Image]]) -> dict[str, Any]:
    """Of one model file: every method on every set, by what it was fitted on."""
    seen = {name: network.see(pictures) for name, pictures in sets.items()}
    rng = np.random.default_rng(0)
    halves = rng.permutation(len(seen["photographs"].features))
    taught, held = np.array_split(halves, 2)
    near = seen["photographs"].of(taught)
    seen["photographs"], seen["photographs_full"] = (seen[name].of(held) for name in NEAR[1:])

    val, train = (open_dataset(data / "tiny-imagenet", split) for split in ("val", "train"))
    order = rng.permutation(len(val))
    all_val = network.see(val.read(int(index)) for index in order)
    labels = val.labels[order]
    known, rest = all_val.of(slice(MEASURED)), all_val.of(slice(MEASURED, None))
    chosen = rng.permutation(len(train))[:8000]
    of_train = network.see(train.read(int(index)) for index in chosen)
    sources = {
        "train_8000": (of_train, train.labels[chosen]),
        "val_8000": (rest, labels[MEASURED:]),
        "val_2000": (rest.of(slice(2000)), labels[MEASURED : MEASURED + 2000]),
        "val_200": (rest.of(slice(200)), labels[MEASURED : MEASURED + 200]),
    }
    names = (*NEAR, *FAR)
    far = [seen[each] for each in made.FITTED]
    result: dict[str, Any] = {}
    for source, (pictures, their_labels) in sources.items():
        scores = {
            **published(pictures, their_labels),
            "fitted": fitted(pictures, far),
            "fitted_with_unknown": fitted(pictures, far, near),
        }
        result[source] = {name: measured(each, known, seen, names) for name, each in scores.items()}
        for name, each in scores.items():
            result[source][name]["known_coco"] = separation(each(seen["known_coco"]), each(seen["coco"]))
        for name, given in (("fitted", None), ("fitted_with_unknown", near)):
            limit = fit(pictures, far, given)["limit"]
            result[source][name]["known_above_limit"] = round(float((scores[name](known) > limit).mean()), 3)
    for name, given in (("fitted", None), ("fitted_with_unknown", near)):
        strict = {
            kind: partial(
                fitted, sources["val_2000"][0], [seen[each] for each in made.FITTED if each not in alike], given
            )
            for kind, alike in NEAREST.items()
        }
        result["val_2000"][name]["without_nearest"] = {
            kind: separation((one := build())(known), one(seen[kind])) for kind, build in strict.items()
        }
    return {**result, "small_task": small_task(all_val, labels, seen)}


def small_task(all_val: Seen, labels: np.ndarray, seen: dict[str, Seen]) -> dict[str, Any]:
    """A head of TASK classes taught on the same features, and 200 pictures to fit a score on."""
    from sklearn.linear_model import LogisticRegression

    member = (labels % 10 == 0) & (labels < TASK * 10)
    own = np.flatnonzero(member)
    taught, calibration, fresh = own[: len(own) // 2], own[len(own) // 2 :][:200], own[len(own) // 2 + 200 :]
    scale = all_val.features[taught].std(0).mean()
    head = LogisticRegression(C=0.1, max_iter=1000).fit(all_val.features[taught] / scale, labels[taught])

    def see(pictures: Seen) -> Seen:
        return Seen(pictures.features, head.decision_function(pictures.features / scale))

    sets = {name: see(each) for name, each in seen.items()}
    known, fitting = see(all_val.of(fresh)), see(all_val.of(calibration))
    far = [sets[each] for each in made.FITTED]
    others = np.flatnonzero(~member)[:100]
    sets["other_classes"] = see(all_val.of(np.flatnonzero(~member)[100:]))
    scores = {
        **published(fitting, labels[calibration]),
        "fitted": fitted(fitting, far),
        "fitted_with_unknown": fitted(fitting, far, see(all_val.of(others))),
    }
    names = ("other_classes", "coco", *FAR)
    return {
        "classes": TASK,
        "fitted_on": len(calibration),
        "measured_on": len(fresh),
        "top1": round(float((head.predict(all_val.features[fresh] / scale) == labels[fresh]).mean()), 3),
        **{name: measured(each, known, sets, names) for name, each in scores.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with tiny-imagenet/, coco-tiny/, photographs/ and bccd/"
    )
    args = parser.parse_args()
    sets = unknown_sets(args.data)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float32.onnx"
        graph = deployment_graph(load_folded(WEIGHTS)[0], (128, 128))
        _copy_card(graph)
        plain.write_bytes(graph.SerializeToString())
        result = {name: study(Network(path), args.data, sets) for name, path in (("int8", SHIPPED), ("float32", plain))}
    record(
        "unknown", "python benchmarks/unknown.py --data DATA", {"sets": {k: len(v) for k, v in sets.items()}, **result}
    )


def _copy_card(graph: Any) -> None:
    """The shipped file's card, for the same network before it was quantised."""
    import onnx

    for entry in onnx.load(SHIPPED).metadata_props:
        graph.metadata_props.add(key=entry.key, value=entry.value)


if __name__ == "__main__":
    main()
