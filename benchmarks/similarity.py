"""Searching and cleaning with embeddings: a million rows, label errors, and how near duplicates are.

``million``: 110,000 embeddings of Tiny-ImageNet's pictures (the pooled last two stages of the shipped model, turned to
448 values), and to a million mixtures of two pictures of one class with noise. 1,000 pictures that are not among them
are looked for; what all rows compared give is the truth. Times are those of the process's own CPU (``cpu``) and of the
clock (``wall``), because a shared machine's clock tells of its other users too. One thread.

``labels``: 5 % of the labels of 5,000 pictures set to another class; how many of the first suspects are among these.

``near``: cosine similarity of a photograph to itself re-encoded, resized, cropped and so on, and of different pictures
of one class to each other.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from threadpoolctl import threadpool_limits

from common import RESULTS, record
from shvit import Embedder
from shvit.data import open_dataset
from shvit.embeddings.table import Embeddings, EmbeddingsWriter, Rows, read_embeddings
from shvit.heads.linear import fit_linear_head
from shvit.images.sources import walk_images
from shvit.predicting.embeddings import EmbeddingOptions, unit_rows
from shvit.similarity import cells
from shvit.similarity.duplicates import find_duplicates
from shvit.similarity.mislabelled import suspects
from shvit.similarity.search import EmbeddingIndex
from shvit.tasks import TASKS

ROWS, VALUES, QUERIES = 1_000_000, 448, 1000
FLIPPED = 0.05
PICTURES = 120


class Clock:
    """Seconds of the process and of the clock."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        return {"cpu": round(cpu, 4), "wall": round(wall, 4)}


def tiny_imagenet(data: Path, kept: Path) -> Embeddings:
    """All its pictures, training and validation, with labels; kept in a file for the next time."""
    if not kept.is_file():
        embedder = Embedder(options=EmbeddingOptions(stages=2, dtype="float16"))
        with EmbeddingsWriter(kept, embedder.info, labelled=True) as file:
            for split in ("train", "val"):
                images = open_dataset(data, split)
                for start in range(0, len(images), 1024):
                    places = range(start, min(start + 1024, len(images)))
                    found = embedder.embed([images.read(place) for place in places])
                    file.write(
                        Rows(
                            [f"{split}/{place}" for place in places],
                            [each.sha256 for each in found],
                            np.stack([each.values for each in found]),
                            labels=[images.classes[images.labels[place]].label for place in places],
                        )
                    )
    return read_embeddings(kept)


def last_stage(embeddings: Embeddings) -> np.ndarray:
    """The values that the head judges by."""
    return embeddings.matrix[:, -320:]


def million(embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``float16 (ROWS, VALUES)`` of length 1, and queries that are not among them."""
    rng = np.random.default_rng(0)
    found = np.concatenate([unit_rows(embeddings.matrix[:, -320:]), unit_rows(embeddings.matrix[:, :-320]) / 2], axis=1)
    turn = np.linalg.qr(rng.standard_normal((found.shape[1], VALUES)))[0].astype(np.float32)
    real, queries = np.split(unit_rows(found @ turn), [len(found) - QUERIES])
    _, labels = np.unique(np.array(embeddings.labels)[: len(real)], return_inverse=True)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    noise = (real[:20_000] - real[order[starts[labels[:20_000]]]]).std() * 0.3
    rows = np.empty((ROWS, VALUES), np.float16)
    rows[: len(real)] = real
    for start in range(len(real), ROWS, 50_000):
        count = min(50_000, ROWS - start)
        one = rng.integers(0, len(real), count)
        first, after = starts[labels[one]], starts[labels[one] + 1]
        other = order[first + (rng.random(count) * (after - first)).astype(int)]
        share = rng.uniform(0, 0.5, (count, 1)).astype(np.float32)
        mixed = (1 - share) * real[one] + share * real[other]
        rows[start : start + count] = unit_rows(mixed + noise * rng.standard_normal(mixed.shape, np.float32))
    return rows, queries


def as_embeddings(rows: np.ndarray, like: Embeddings) -> Embeddings:
    info = replace(like.info, values=rows.shape[1], dtype=str(rows.dtype), normalized=True, stages=1)
    names = [str(place) for place in range(len(rows))]
    return Embeddings(info, names, names, None, None, rows, 0)


def timed(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Of one query at a time: recall of the ten nearest, and milliseconds."""
    times, right = [], 0
    for query, expected in zip(queries, truth, strict=True):
        clock = Clock()
        found = search(query[None])
        times.append(clock.read())
        right += len(set(found.tolist()) & set(expected.tolist()))
    milliseconds = {
        f"{name}_{kind}_ms": round(1000 * float(np.quantile([each[kind] for each in times], share)), 2)
        for kind in ("cpu", "wall")
        for name, share in (("median", 0.5), ("p95", 0.95))
    }
    return {"recall": round(right / truth.size, 4), **milliseconds}


def study_million(embeddings: Embeddings, rows_wanted: int) -> dict[str, Any]:
    rows, queries = million(embeddings)
    table = as_embeddings(rows[:rows_wanted], embeddings)
    clock = Clock()
    brute = EmbeddingIndex(table, exact=True)
    truth = brute.search(queries, 10).places
    all_at_once = clock.read()
    one = timed(lambda query: brute.search(query, 10).places[0], queries[:5], truth[:5])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.parquet"
        with EmbeddingsWriter(path, table.info) as file:
            for start in range(0, len(table), 8192):
                names = table.sources[start : start + 8192]
                digests = [f"{int(each):064x}" for each in names]
                file.write(Rows(names, digests, table.stored[start : start + 8192]))
        clock = Clock()
        EmbeddingIndex(path)
        build = clock.read()
        clock = Clock()
        index = EmbeddingIndex(path)
        opened = clock.read()
        size = (path.with_name(path.name + ".index")).stat().st_size
    found = {}
    usual = cells.PROBED
    for probed in (16, 32, 48, 64, 96):
        cells.PROBED = probed
        found[str(probed)] = timed(lambda query: index.search(query, 10).places[0], queries, truth)
    cells.PROBED = usual
    clock = Clock()
    groups = find_duplicates(index, 0.98)
    return {
        "rows": len(table),
        "brute_force": {"a_thousand_queries_s": all_at_once, "one_query": one},
        "build_and_write_s": build,
        "read_s": opened,
        "index_mb": round(size / 1e6, 1),
        "embeddings_mb": round(table.stored.nbytes / 1e6, 1),
        "peak_mb": {"before": round(before / 1e3), "after": round(_peak())},
        "by_cells_probed": found,
        "usual": usual,
        "duplicates_s": clock.read(),
        "duplicate_groups": len(groups),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def label_sets(labels: np.ndarray, seed: int, all_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Places of about 5,000 pictures: of few classes, of some and of all.

    Args:
        all_alone: only of all; of few there are not as many.
    """
    rng = np.random.default_rng(seed)
    ten, fifty = rng.choice(200, 10, replace=False), rng.choice(200, 50, replace=False)
    if not all_alone:
        yield "10 classes", np.flatnonzero(np.isin(labels, ten))
        yield (
            "50 classes",
            np.concatenate([rng.choice(np.flatnonzero(labels == each), 100, replace=False) for each in fifty]),
        )
    yield "200 classes", rng.choice(len(labels), 5000, replace=False)


def study_labels(embeddings: Embeddings, seeds: int) -> list[dict[str, Any]]:
    results = []
    features, (_, labels) = last_stage(embeddings), np.unique(np.array(embeddings.labels), return_inverse=True)
    parts = {"train": slice(0, 100_000), "val": slice(100_000, None)}
    for split, part in parts.items():
        for seed in range(seeds):
            for name, chosen in label_sets(labels[part], seed, split == "val"):
                results.append(
                    {"split": split, "seed": seed, "of": name, **flipped(features[part], labels[part], chosen, seed)}
                )
                print(results[-1], flush=True)
    return results


def flipped(features: np.ndarray, labels: np.ndarray, chosen: np.ndarray, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    _, right = np.unique(labels[chosen], return_inverse=True)
    classes = right.max() + 1
    wrong = rng.choice(len(chosen), round(FLIPPED * len(chosen)), replace=False)
    given = right.copy()
    given[wrong] = (right[wrong] + rng.integers(1, classes, len(wrong))) % classes
    clock = Clock()
    held_out = fit_linear_head(features[chosen][:, None], given, classes).held_out
    scores = TASKS["classification"].scores(held_out.astype(np.float64))
    fitted = clock.read()
    rows = np.arange(len(given))
    own = scores[rows, given]
    others = scores.copy()
    others[rows, given] = -1
    ours = np.array([row for row, _ in suspects(scores, given)])
    rankings = {
        "ours": ours,
        "label_unlikely": np.argsort(own),
        "margin": np.argsort(own - others.max(1)),
        **by_cleanlab(given, scores),
    }
    bad = np.isin(rows, wrong)
    return {
        "pictures": len(chosen),
        "flipped": len(wrong),
        "fit_s": fitted,
        "accuracy": round(float((scores.argmax(1) == right).mean()), 3),
        "suspected": len(ours),
        "found": int(bad[ours].sum()),
        "suggestion_right": round(
            float(np.mean([other == right[row] for row, other in suspects(scores, given)[:100] if bad[row]])), 3
        ),
        "precision_at_100": {name: round(float(bad[order[:100]].mean()), 3) for name, order in rankings.items()},
    }


def by_cleanlab(given: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Its rankings, where it is installed: pip install cleanlab."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return {}
    return {
        f"cleanlab_{name}": find_label_issues(given, scores, return_indices_ranked_by=name, n_jobs=1)
        for name in ("self_confidence", "normalized_margin")
    }


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scaled(image: Image.Image, share: float) -> Image.Image:
    return image.resize(
        (max(round(image.width * share), 1), max(round(image.height * share), 1)), Image.Resampling.BICUBIC
    )


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without so much of each side."""
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 75": lambda image: as_jpeg(image, 75),
    "JPEG, quality 40": lambda image: as_jpeg(image, 40),
    "half the size": lambda image: as_jpeg(scaled(image, 0.5), 90),
    "2 % off each side": lambda image: as_jpeg(cropped(image, 0.02), 95),
    "5 % off each side": lambda image: as_jpeg(cropped(image, 0.05), 95),
    "20 % brighter": lambda image: as_jpeg(ImageEnhance.Brightness(image).enhance(1.2), 95),
    "20 % darker": lambda image: as_jpeg(ImageEnhance.Brightness(image).enhance(0.8), 95),
    "mirrored": lambda image: as_jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 95),
    "grey": lambda image: as_jpeg(image.convert("L").convert("RGB"), 95),
}


def study_near(data: Path, embeddings: Embeddings) -> dict[str, Any]:
    embedder = Embedder(threads=1)
    paths = list(walk_images(data / "photographs"))[:PICTURES]
    train = open_dataset(data / "tiny-imagenet", "val")
    rng = np.random.default_rng(0)
    sets = {
        "photographs": [Image.open(path).convert("RGB") for path in paths],
        "tiny_imagenet": [
            Image.open(io.BytesIO(train.read(int(at)))).convert("RGB") for at in rng.permutation(len(train))[:PICTURES]
        ],
    }
    changed: dict[str, Any] = {}
    for name, pictures in sets.items():
        plain = units_of(embedder, [as_jpeg(each, 95) for each in pictures])
        changed[name] = {
            change: shares((plain * units_of(embedder, [make(each) for each in pictures])).sum(1), high=True)
            for change, make in CHANGES.items()
        }
        between = plain @ plain.T
        np.fill_diagonal(between, -1)
        changed[name]["nearest other picture"] = shares(between.max(1), high=False)
    features, labels = unit_rows(last_stage(embeddings)), np.array(embeddings.labels)
    largest = []
    for label in np.unique(labels):
        of_class = features[labels == label]
        between = of_class @ of_class.T
        np.fill_diagonal(between, -1)
        largest.append(between.max(1))
    changed["nearest of the same class, Tiny-ImageNet"] = shares(np.concatenate(largest), high=False)
    return changed


def units_of(embedder: Embedder, pictures: list[bytes]) -> np.ndarray:
    return unit_rows(np.stack([each.values for each in embedder.embed(pictures) if each.values is not None]))


def shares(similarities: np.ndarray, high: bool) -> dict[str, float]:
    """Quantiles, the low ones where they should be high, and the share from each threshold on."""
    ends = (0.01, 0.05, 0.5) if high else (0.5, 0.95, 0.99)
    quantiles = {f"{100 * end:g} %": round(float(np.quantile(similarities, end)), 4) for end in ends}
    reached = {
        f">= {limit}": round(float((similarities >= limit).mean()), 4) for limit in (0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
    }
    return {**quantiles, **reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=("million", "labels", "near"))
    parser.add_argument("--data", type=Path, required=True, help="folder with tiny-imagenet/ and photographs/")
    parser.add_argument(
        "--kept", type=Path, default=RESULTS.parent.parent / "runs" / "tiny_imagenet.parquet", help="embeddings"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    args.kept.parent.mkdir(parents=True, exist_ok=True)
    embeddings = tiny_imagenet(args.data / "tiny-imagenet", args.kept)
    studies: dict[str, Callable[[], Any]] = {
        "million": lambda: study_million(embeddings, args.rows),
        "labels": lambda: study_labels(embeddings, args.seeds),
        "near": lambda: study_near(args.data, embeddings),
    }
    with threadpool_limits(1):
        for name in args.studies:
            record(f"similarity_{name}", f"python benchmarks/similarity.py {name} --data DATA", {name: studies[name]()})


if __name__ == "__main__":
    main()
