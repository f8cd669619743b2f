"""Whether what `shvit calibrate` writes into a card holds on pictures that it was not fitted on, and what it costs.

Parts, each measured alone and recorded beside the others:

- ``promises``: Tiny-ImageNet's validation is divided again and again; thresholds for a precision are fitted on one part
  and measured on the rest.
- ``calibration``: networks fine-tuned on small folders; the calibration error before and after, on fresh pictures.
- ``cost``: inference with the unknown score and without it, in turns; bytes in the file.
- ``engines``: the same unknown score in every engine and in the browser.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from common import RESULTS, machine
from decisions_engines import cost, engines
from networks import SMALL, card_of, network_of, see, small_folder
from shvit.calibration.fitting import CalibrationOptions, Fitting
from shvit.calibration.outputs import Outputs
from shvit.calibration.temperature import fit_temperature
from shvit.card import Card, Decision
from shvit.data import open_dataset
from shvit.evaluation.metrics import calibration_of
from shvit.evaluation.thresholds import promise
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS
from shvit.tasks import task_of
from small_folders import parts, task

TIMES = 100
"""Divisions of the same pictures."""
TARGETS = (0.95, 0.9)
CALIBRATED_ON = (1000, 2000)
"""Pictures that a threshold is fitted on; it is measured on the rest of 10,000."""
VALIDATION = (200, 500)
"""Pictures that a small folder's temperature is fitted on."""
CLASS_PENALTY = 0.01
"""Of the squared numbers by class, where a fit has those."""


def promises(data: Path, models: Path) -> dict[str, Any]:
    """How often a threshold for a precision is found, and whether what the card says of it holds on fresh pictures."""
    path = SHIPPED_MODELS[DEFAULT_MODEL]
    card, val = card_of(path), open_dataset(data / "tiny-imagenet", "val")
    outputs = see(network_of(path), (val.read(index) for index in range(len(val))))
    rng = np.random.default_rng(0)
    found: dict[tuple[int, float], list[dict[str, float]]] = {}
    for _ in range(TIMES):
        order = rng.permutation(len(val))
        for count in CALIBRATED_ON:
            own, fresh = order[:count], order[count:]
            for target in TARGETS:
                options = CalibrationOptions(target_precision=target)
                decision = Fitting(card, outputs.of(own), val.labels[own], [], None, options).decision("val")
                rows = found.setdefault((count, target), [])
                if decision.promise is not None:
                    rows.append(_on_fresh(decision, outputs.of(fresh), val.labels[fresh]))
    return {
        "model": DEFAULT_MODEL,
        "divisions": TIMES,
        "settings": [
            {"calibrated_on": count, "measured_on": len(val) - count, "target": target, **_summary(rows)}
            for (count, target), rows in found.items()
        ],
    }


def _on_fresh(decision: Decision, outputs: Outputs, labels: np.ndarray) -> dict[str, float]:
    assert decision.promise is not None and decision.min_score is not None
    scores = softmax(outputs.logits / np.float32(decision.temperature), axis=1)
    accepted = scores.max(1) >= decision.min_score
    right = int((scores.argmax(1) == labels)[accepted].sum())
    fresh = promise(decision.promise.target_precision, right, int(accepted.sum()), len(labels))
    stated = decision.promise
    return {
        "stated_low": stated.low,
        "stated_high": stated.high,
        "stated_coverage": stated.coverage,
        "precision": fresh.precision,
        "coverage": fresh.coverage,
        "in_interval": stated.low <= fresh.precision <= stated.high,
        "not_below_interval": fresh.precision >= stated.low,
        "reached_target": fresh.precision >= stated.target_precision,
    }


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the divisions in which something was promised, and how low the precision fell."""
    if not rows:
        return {"promised": 0.0}
    means = {name: round(float(np.mean([each[name] for each in rows])), 4) for name in rows[0]}
    return {
        "promised": len(rows) / TIMES,
        **means,
        "lowest_precision": round(min(each["precision"] for each in rows), 4),
    }


Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Logits and labels to what makes better logits."""


def calibration(data: Path, models: Path) -> dict[str, Any]:
    """The calibration error of fine-tuned networks before and after, over many choices of the validation pictures."""
    return {
        "divisions": TIMES,
        "networks": {name: _of_network(name, data, models) for name in SMALL},
    }


def _of_network(name: str, data: Path, models: Path) -> dict[str, Any]:
    path, about = small_folder(name, data, models)
    card, pictures = card_of(path), task("groups", data)
    seen, _ = parts(pictures, SMALL[name], 0)
    pool = np.setdiff1d(np.arange(len(pictures)), seen.indices)
    outputs = see(network_of(path), (pictures.read(int(index)) for index in pool))
    number = {each.label: each.class_id for each in card.classes}
    labels = np.array([number[pictures.classes[label].label] for label in pictures.labels[pool]])
    right = outputs.logits.argmax(1) == labels
    return {
        **about,
        "top1": round(float(right.mean()), 4),
        "settings": [
            {"fitted_on": count, "measured_on": len(pool) - count, **_calibrated_again(card, outputs, labels, count)}
            for count in VALIDATION
        ],
    }


def _calibrated_again(card: Card, outputs: Outputs, labels: np.ndarray, count: int) -> dict[str, Any]:
    """Calibration errors on the pictures that were not fitted on, over many choices of those that were."""
    rng, rows, task = np.random.default_rng(0), [], task_of(card)
    for _ in range(TIMES):
        mixed = rng.permutation(len(labels))
        own, fresh = mixed[:count], mixed[count:]
        decision = Fitting(card, outputs.of(own), labels[own], [], None, CalibrationOptions()).decision("val")
        logits, right = outputs.logits[fresh], labels[fresh]
        after = logits / np.float32(decision.temperature)
        always = fit_temperature(task, outputs.logits[own], labels[own])
        oracle = fit_temperature(task, logits, right)
        by_class = with_class_numbers(outputs.logits[own], labels[own])
        rows.append(
            {
                "temperature": decision.temperature,
                "stated_by_the_card": decision.calibration_error,
                "before": error(logits, right),
                "after": error(after, right),
                "of_a_perfect_model": _error_of_perfect(after, rng),
                "with_the_best_temperature": error(logits / np.float32(oracle), right),
                "temperature_always_kept": error(logits / np.float32(always), right),
                "temperature_and_numbers_by_class": error(by_class(logits), right),
            }
        )
    return {
        "within_3_percent": float(np.mean([each["after"] <= 0.03 for each in rows])),
        "left_at_1": float(np.mean([each["temperature"] == 1 for each in rows])),
        **{name: _spread([each[name] for each in rows]) for name in rows[0]},
    }


def error(logits: np.ndarray, labels: np.ndarray) -> float:
    scores = softmax(logits.astype(np.float64), axis=1)
    return calibration_of(scores.max(1), scores.argmax(1) == labels).error


def _error_of_perfect(logits: np.ndarray, rng: np.random.Generator) -> float:
    """What is measured of a model that is right exactly as often as it says: chance alone."""
    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    return float(
        np.mean([calibration_of(confidence, rng.random(len(confidence)) < confidence).error for _ in range(5)])
    )


def with_class_numbers(logits: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A temperature, and a number for each class that is added: held near 0, since the pictures are few."""
    count, rows = logits.shape[1], np.arange(len(labels))

    def loss(numbers: np.ndarray) -> float:
        chances = log_softmax(logits * np.exp(numbers[0]) + numbers[1:], axis=1)
        return float(-chances[rows, labels].mean() + CLASS_PENALTY * (numbers[1:] ** 2).sum())

    best = minimize(loss, np.zeros(count + 1), method="L-BFGS-B").x
    return lambda fresh: fresh * np.exp(best[0]) + best[1:]


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {
        "mean": round(float(np.mean(values)), 4),
        "p5": round(low, 4),
        "p50": round(middle, 4),
        "p95": round(high, 4),
    }


PARTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "promises": promises,
    "calibration": calibration,
    "cost": cost,
    "engines": engines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when not given")
    parser.add_argument("--data", type=Path, required=True, help="folder with tiny-imagenet/")
    parser.add_argument("--models", type=Path, default=Path("runs/decisions"), help="folder for fine-tuned networks")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    args.models.mkdir(parents=True, exist_ok=True)
    threadpool_limits(1)  # several wait for one another on a busy machine
    path = RESULTS / "decisions.json"
    for name in args.parts or PARTS:
        result = {
            "command": f"python benchmarks/decisions.py {name} --data DATA",
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            **PARTS[name](args.data, args.models),
        }
        print(json.dumps({name: result}, indent=2), flush=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
