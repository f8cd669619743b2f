"""Files to labels: where the time goes, and how fast the whole is beside timm, Pillow and PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from shvit.bench.summary import ratios, summary
from shvit.errors import ImageError
from shvit.images.encoded import read_encoded
from shvit.images.preprocess import decode, preprocess
from shvit.predicting.classifier import Classifier
from shvit.shipped import verification_images

if TYPE_CHECKING:
    from torch import nn

BATCH = 16
PHASES = ("read", "decode", "resize and crop", "infer")

PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What timm's side opens, by Pillow's names: with plain ``Image.open``, as most people write it."""

Classify = Callable[[Sequence[Path]], list[int | None]]
"""Files to class numbers; ``None`` for one that cannot be read."""


@dataclass(frozen=True)
class PipelineReport:
    """What was measured on one number of threads."""

    threads: int
    images: int
    failed: int
    """Files that cannot be read; they count as done."""
    phases: dict[str, float]
    """Milliseconds an image, one phase after the other, on this many threads."""
    images_per_second: dict[str, dict[str, float]]
    """Of the whole, by program: median and range over slices of the files."""
    times_faster: dict[str, float] | None
    """Ours to timm's: median and range over the same slices; ``None`` without timm."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "images": self.images,
            "failed": self.failed,
            "phases_ms_per_image": self.phases,
            "images_per_second": self.images_per_second,
            "times_faster": self.times_faster,
        }


def measure_pipeline(
    model: str | Path,
    paths: Sequence[Path],
    threads: int,
    engine: str = "auto",
    slices: int = 6,
    network: nn.Module | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> PipelineReport:
    """Times the phases, then the whole beside timm's, slice by slice of the files in turns.

    Args:
        model: a model file, or a name, as ``Classifier`` takes them.
        network: the same in timm, evaluating, or ``None`` to leave timm out.
        advance: told of each image of each program and of the phases.
    """
    classifier = Classifier(model, engine, threads)
    sides: dict[str, Classify] = {"shvit": shvit_pipeline(classifier)}
    if network is not None:
        sides["timm"] = timm_pipeline(network, classifier.card.preprocessing.image_size, threads)
    for classify in sides.values():
        classify(paths[:BATCH])
    phases = _phases(classifier, paths)
    advance(len(paths))
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    failed = 0
    for place in np.array_split(np.arange(len(paths)), min(slices, len(paths))):
        part = [paths[each] for each in place]
        for name, classify in sides.items():
            started = time.perf_counter()
            labels = classify(part)
            speeds[name].append(len(part) / (time.perf_counter() - started))
            failed += name == "shvit" and sum(each is None for each in labels)
            advance(len(part))
    return PipelineReport(
        threads,
        len(paths),
        failed,
        phases,
        {name: summary(values) for name, values in speeds.items()},
        ratios(speeds["timm"], speeds["shvit"]) if network is not None else None,
    )


def shvit_pipeline(classifier: Classifier) -> Classify:
    """``Classifier.stream``, as ``shvit predict`` uses it."""

    def classify(paths: Sequence[Path]) -> list[int | None]:
        results = classifier.stream(paths, top_k=1, batch_size=BATCH)
        return [each.predictions[0].class_id if each.error is None else None for each in results]

    return classify


def timm_pipeline(network: nn.Module, image_size: tuple[int, int], threads: int = 1) -> Classify:
    """What most people write: open, transform, batch, forward.

    Args:
        network: evaluating.
        threads: PyTorch's, for the whole process, set before each call.
    """
    import torch
    from timm.data import create_transform

    transform = create_transform(input_size=(3, *image_size), interpolation="bicubic", crop_pct=0.875)

    def load(path: Path) -> torch.Tensor | None:
        try:
            return transform(Image.open(path, formats=PHOTOGRAPHS).convert("RGB"))
        except OSError:
            return None

    @torch.inference_mode()
    def classify(paths: Sequence[Path]) -> list[int | None]:
        torch.set_num_threads(threads)
        labels: list[int | None] = []
        for start in range(0, len(paths), BATCH):
            images = [load(path) for path in paths[start : start + BATCH]]
            whole = [each for each in images if each is not None]
            found = iter(network(torch.stack(whole)).softmax(-1).argmax(-1).tolist() if whole else [])
            labels += [None if each is None else next(found) for each in images]
        return labels

    return classify


def _phases(classifier: Classifier, paths: Sequence[Path]) -> dict[str, float]:
    """Milliseconds an image that each phase takes, one after the other; what cannot be read is left out."""
    spent = dict.fromkeys(PHASES, 0.0)
    done = 0
    for start in range(0, len(paths), BATCH):
        pixels = []
        for path in paths[start : start + BATCH]:
            marks = [time.perf_counter()]
            try:
                encoded = read_encoded(path, str(path))
                marks.append(time.perf_counter())
                image = decode(encoded)
                marks.append(time.perf_counter())
                pixels.append(preprocess(image, classifier.card.preprocessing))
                marks.append(time.perf_counter())
            except (ImageError, OSError):
                continue
            for phase, begun, ended in zip(PHASES, marks, marks[1:], strict=False):
                spent[phase] += ended - begun
        if pixels:
            started = time.perf_counter()
            classifier.predict_batch(np.stack(pixels))
            spent["infer"] += time.perf_counter() - started
        done += len(pixels)
    if not done:
        raise ImageError("none of the images can be read")
    return {phase: 1000 * each / done for phase, each in spent.items()}


def timm_network(architecture: str, num_classes: int) -> nn.Module:
    """timm's network of a SHViT variant's name, with random weights, evaluating."""
    import timm

    return timm.create_model(architecture, num_classes=num_classes).eval()


def write_photographs(folder: Path, count: int, sources: Sequence[Path] | None = None) -> list[Path]:
    """JPEG files of a common size, 500×375, cut from photographs.

    Args:
        sources: the photographs; the package's own when not given, which are smaller and give smoother, smaller files.
    """
    photographs = [decode(path) for path in sources or verification_images()]
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        left, top = (rng.uniform(0, 0.2) * side for side in image.size)
        cut = image.resize((500, 375), Image.Resampling.BICUBIC, box=(left, top, *image.size))
        paths.append(folder / f"photo{number}.jpg")
        cut.save(paths[-1], quality=95)
    return paths
