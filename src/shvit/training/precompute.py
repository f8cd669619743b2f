"""Running a teacher once, on the crops that a student will see."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shvit.atomic import atomic_path, put_in_place
from shvit.data.loader import BrokenImages, normalize, training_loader
from shvit.data.protocol import ImageDataset
from shvit.data.sampler import EpochSampler, SampleKey
from shvit.data.stratify import has_several
from shvit.data.transforms import Augmentation, TrainTransform
from shvit.errors import DataError, MissingDependencyError
from shvit.install import install_command
from shvit.training.distillation import (
    HALF,
    LogitsCard,
    TeacherNetwork,
    crops_card,
    file_digest,
    read_view,
    view_file,
)
from shvit.training.locking import only_writer
from shvit.training.processes import check_device

BACKENDS = ("eager", "openvino")
ROWS = 4096
"""Images whose logits are computed from their features at a time."""


@dataclass(frozen=True)
class TeacherExecution:
    """How a teacher is run; nothing of it belongs to the logits."""

    backend: str = "eager"
    """``eager`` PyTorch, or ``openvino``, some three times faster on a CPU."""
    device: str = "cpu"
    """PyTorch's name of where eager runs."""
    workers: int = 1
    """Decoding processes."""
    batch_size: int = 32
    broken_share: float = 0.01
    """Share of the images that may be broken, in [0, 1]."""


def precompute_logits(
    teacher: TeacherNetwork,
    images: ImageDataset,
    folder: Path,
    views: int,
    augmentation: Augmentation,
    seed: int,
    fit_head: bool = False,
    execution: TeacherExecution | None = None,
    on_images: Callable[[int], None] = lambda done: None,
) -> LogitsCard:
    """Writes a folder of logits that ``PrecomputedTeacher`` reads; goes on with one that was begun.

    A process that was killed loses the batch that it was at. Features stay in the folder (``float16``), so that
    more views, or a fitted head, can be had later for the price of what is new.

    Args:
        fit_head: first fit the teacher's last layer to the labels of these images. A teacher trained on large
            photographs is wrong about small ones in ways that its features are not.
        on_images: called with the number of images done, over all views; first with what is there already.

    Raises:
        DataError: the folder belongs to other images, another teacher, other crops or another seed; or too many
            images are broken.
        TrainingError: another process is writing into the folder.
    """
    execution = execution or TeacherExecution()
    belongs = {
        "teacher": teacher.name,
        "weights": teacher.weights,
        "size": teacher.size,
        **crops_card(images, augmentation, seed),
    }
    card = LogitsCard(dataset=images.name, views=views, fit_head=fit_head, complete=False, **belongs)
    if (folder / "logits.json").exists():
        earlier = LogitsCard.load(folder)
        different = earlier.differences(belongs)
        if different:
            raise DataError(
                f"{folder}: holds logits made with {different[0]}; give another output folder, or delete it"
            )
        if earlier.complete and (earlier.views, earlier.fit_head) == (views, fit_head) and _whole(folder, earlier):
            on_images(views * len(images))
            return earlier
        card.digests.update(item for item in earlier.digests.items() if item[0].startswith("features"))
    elif any(folder.glob("features*")):
        raise DataError(f"{folder}: holds a teacher's features, but no logits.json says whose; delete it")
    with only_writer(folder):
        card.save(folder)

        files = [_FeaturesFile(folder, view, (len(images), teacher.head.in_features)) for view in range(views)]
        for file in files:
            file.drop_damaged(card)
        starts = [file.begun(execution.batch_size) for file in files]
        done = sum(starts)
        on_images(done)
        broken = BrokenImages(execution.broken_share, len(images), images.name)
        run = _compile(teacher, execution)
        transform = TrainTransform(augmentation, teacher.size, seed, crops_only=True)
        for view, (file, start) in enumerate(zip(files, starts, strict=True)):
            sampler = _InOrder(
                len(images), execution.batch_size, seed, view, start // execution.batch_size, drop_last=False
            )
            batches = training_loader(images, transform, sampler, execution.workers) if start < len(images) else ()
            for batch in batches:
                broken.add(batch)
                rows = np.full((len(batch.indices) + len(batch.broken), file.shape[1]), np.nan, HALF)
                if len(batch.indices):
                    rows[batch.indices.numpy() - start] = run(batch.images).numpy()
                file.append(rows, start)
                start += len(rows)
                done += len(rows)
                on_images(done)
            file.finish()
            if file.path.name not in card.digests:
                card.digests[file.path.name] = file_digest(file.path)
                card.save(folder)
        features = [file.read() for file in files]
        head = teacher.head.cpu()
        if fit_head:
            _fit_head(head, features, images.labels, seed)
        right = [
            _write_logits(head, rows, images.labels, view_file(folder, view)) for view, rows in enumerate(features)
        ]
        known = [len(_known(rows)) for rows in features]
        written = (view_file(folder, view) for view in range(views))
        digests = {**card.digests, **{file.name: file_digest(file) for file in written}}
        card = replace(card, digests=dict(sorted(digests.items())))
        top1 = None if has_several(images.labels) else sum(right) / max(sum(known), 1)
        card = replace(card, complete=True, top1=top1, broken=len(images) - min(known))
        card.save(folder)
        return card


def _whole(folder: Path, card: LogitsCard) -> bool:
    """Whether all of a complete folder's logits are what was written."""
    try:
        for view in range(card.views):
            read_view(folder, view, card)
    except DataError as error:
        warnings.warn(str(error), stacklevel=3)
        return False
    return True


class _InOrder(EpochSampler):
    """An epoch's batches in the dataset's own order, so that a file of results can grow from its start."""

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(self.start * self.batch_size, self.count, self.batch_size):
            yield [SampleKey(self.epoch, index) for index in range(start, min(start + self.batch_size, self.count))]


class _FeaturesFile:
    """One view's pooled features, ``float16 (images, features)``, in NumPy's format; NaN for broken images.

    It grows under another name until all rows are there. How far it came is its size.
    """

    def __init__(self, folder: Path, view: int, shape: tuple[int, int]) -> None:
        self.path, self.partial = folder / f"features{view}.npy", folder / f"features{view}.partial"
        self.shape, self.header = shape, _header(shape)

    def drop_damaged(self, card: LogitsCard) -> None:
        """Deletes a finished file that is not what was written, so that it is computed again."""
        if not self.path.exists():
            card.digests.pop(self.path.name, None)
            return
        try:
            card.check_file(self.path)
            self.read()
        except DataError as error:
            warnings.warn(f"{error}; the teacher computes it again", stacklevel=3)
            self.path.unlink()
            del card.digests[self.path.name]

    def begun(self, batch_size: int) -> int:
        """Rows that are there, in whole batches."""
        if self.path.exists():
            return self.shape[0]
        if not self.partial.exists():
            return 0
        rows = (self.partial.stat().st_size - len(self.header)) // (self.shape[1] * HALF.itemsize)
        return max(rows, 0) // batch_size * batch_size

    def append(self, rows: np.ndarray, start: int) -> None:
        """Writes rows from ``start`` on; what was there beyond, as half a batch of a killed process, is gone."""
        with self.partial.open("r+b" if start else "wb") as file:
            if not start:
                file.write(self.header)
            file.truncate(len(self.header) + start * self.shape[1] * HALF.itemsize)
            file.seek(0, os.SEEK_END)
            file.write(rows.tobytes())

    def finish(self) -> None:
        if not self.path.exists():
            put_in_place(self.partial, self.path)

    def read(self) -> np.ndarray:
        try:
            rows = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}; delete it to compute it again") from None
        if (rows.shape, rows.dtype) != (self.shape, HALF):
            raise DataError(f"{self.path}: expected {self.shape} features, got {rows.shape}; delete it")
        return rows


def _header(shape: tuple[int, int]) -> bytes:
    """What stands before the numbers in NumPy's format."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": HALF.str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _known(rows: np.ndarray) -> np.ndarray:
    """Indices of the rows of images that are not broken."""
    return np.flatnonzero(~np.isnan(rows[:, 0]))


def _compile(teacher: TeacherNetwork, execution: TeacherExecution) -> Callable[[Tensor], Tensor]:
    """From ``uint8 (B, H, W, 3)`` to pooled features ``(B, features)`` on the CPU."""
    if execution.backend == "eager":
        check_device(execution.device)
        device = torch.device(execution.device)
        body = teacher.body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        try:
            import openvino

            from shvit.engines.openvino import signal_stack_kept
        except ImportError:
            raise MissingDependencyError(
                f"backend openvino is not installed; install it with: {install_command('openvino')}"
            ) from None

        device = torch.device("cpu")
        example = torch.zeros(1, 3, teacher.size, teacher.size)
        converted = openvino.convert_model(teacher.body, example_input=example, input=[-1, *example.shape[1:]])
        with signal_stack_kept():
            compiled = openvino.compile_model(converted, "CPU")

        def body(images: Tensor) -> Tensor:
            return torch.from_numpy(compiled(images.numpy())[0])

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return body(teacher.adapt(normalize(images.to(device)))).float().cpu()

    return run


def _write_logits(head: nn.Linear, features: np.ndarray, labels: np.ndarray, path: Path) -> int:
    """Writes a view's logits; returns how many are largest for the image's label, where it has one label."""
    weight, bias = (each.detach().numpy() for each in (head.weight, head.bias))
    right = 0
    with atomic_path(path) as aside, aside.open("wb") as file:
        file.write(_header((len(features), len(bias))))
        for start in range(0, len(features), ROWS):
            logits = features[start : start + ROWS].astype(np.float32) @ weight.T + bias
            file.write(logits.astype(HALF).tobytes())
            known = _known(logits)
            if has_several(labels):
                continue
            right += int((logits[known].argmax(axis=1) == labels[start + known]).sum())
    return right


def _head_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, label_smoothing=0.1)
    return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").sum(dim=1).mean()


def _fit_head(
    head: nn.Linear,
    features: list[np.ndarray],
    labels: np.ndarray,
    seed: int,
    epochs: int = 6,
    batch: int = 512,
) -> None:
    """Regression from the pooled features, started from the teacher's own weights: multinomial, or of each label."""
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=1e-2)
    views = [(rows, _known(rows)) for rows in features]
    steps = sum(-(-len(known) // batch) for _, known in views) * epochs
    rates = iter(np.linspace(2e-3, 0, steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for rows, known in views:
                for chosen in torch.randperm(len(known)).split(batch):
                    indices = known[chosen.numpy()]
                    optimizer.param_groups[0]["lr"] = float(next(rates))
                    inputs = F.dropout(torch.from_numpy(rows[indices]).float(), 0.2)
                    loss = _head_loss(head(inputs), torch.from_numpy(labels[indices]))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
