"""Running a teacher once, on the crops that a student will see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shvit.atomic import atomic_path
from shvit.data.datasets import ImageDataset, fingerprint
from shvit.data.loader import training_loader
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import Augmentation, TrainTransform
from shvit.train.distillation import LogitsCard, TeacherNetwork, view_file

BACKENDS = ("eager", "openvino")


def precompute_logits(
    teacher: TeacherNetwork,
    images: ImageDataset,
    folder: Path,
    views: int,
    augmentation: Augmentation,
    seed: int,
    fit_head: bool = False,
    backend: str = "eager",
    workers: int = 1,
    batch_size: int = 32,
    on_images: Callable[[int, int], None] = lambda view, done: None,
) -> LogitsCard:
    """Writes a folder of logits that ``PrecomputedTeacher`` reads. Views that are there already are kept.

    Args:
        fit_head: first fit the teacher's last layer to the labels of these images. A teacher trained on large
            photographs is wrong about small ones in ways that its features are not.
        backend: ``eager`` PyTorch, or ``openvino``, some three times faster on a CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _compile(teacher, backend)
    for view in range(views):
        if not _features_file(folder, view).exists():
            _write_features(run, teacher, images, folder, view, augmentation, seed, workers, batch_size, on_images)
    features = [np.load(_features_file(folder, view), mmap_mode="r") for view in range(views)]
    if fit_head:
        _fit_head(teacher.head, features, images.labels, seed)
    weight, bias = (p.detach().numpy() for p in (teacher.head.weight, teacher.head.bias))
    for view, rows in enumerate(features):
        _save(view_file(folder, view), (rows.astype(np.float32) @ weight.T + bias).astype(np.float16))
    card = LogitsCard(
        teacher=teacher.name + (" with its last layer fitted to the dataset" if fit_head else ""),
        dataset=images.name,
        fingerprint=fingerprint(images),
        images=len(images),
        classes=len(images.classes),
        views=views,
        seed=seed,
        crop_scale=augmentation.crop_scale,
        mirror=augmentation.mirror,
    )
    card.save(folder)
    return card


def _features_file(folder: Path, view: int) -> Path:
    """The teacher's pooled features: ``float16 (images, features)``."""
    return folder / f"features{view}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as aside, aside.open("wb") as file:
        np.save(file, array)


def _compile(teacher: TeacherNetwork, backend: str) -> Callable[[Tensor], Tensor]:
    if backend == "eager":
        return teacher.body.to(memory_format=torch.channels_last)
    import openvino

    example = torch.zeros(1, 3, teacher.size, teacher.size)
    converted = openvino.convert_model(teacher.body, example_input=example, input=[-1, *example.shape[1:]])
    compiled = openvino.compile_model(converted, "CPU")
    return lambda images: torch.from_numpy(compiled(images.numpy())[0])


@torch.inference_mode()
def _write_features(
    run: Callable[[Tensor], Tensor],
    teacher: TeacherNetwork,
    images: ImageDataset,
    folder: Path,
    view: int,
    augmentation: Augmentation,
    seed: int,
    workers: int,
    batch_size: int,
    on_images: Callable[[int, int], None],
) -> None:
    features = np.empty((len(images), teacher.head.in_features), np.float16)
    transform = TrainTransform(augmentation, teacher.size, seed, crops_only=True)
    sampler = EpochSampler(len(images), batch_size, seed, epoch=view, drop_last=False)
    done = 0
    for batch in training_loader(images, transform, sampler, workers):
        features[batch.indices.numpy()] = run(teacher.normalize(batch.images)).to(torch.float16).numpy()
        done += len(batch.indices)
        on_images(view, done)
    _save(_features_file(folder, view), features)


def _fit_head(
    head: nn.Linear,
    features: list[np.ndarray],
    labels: np.ndarray,
    seed: int,
    epochs: int = 6,
    batch: int = 512,
) -> None:
    """Multinomial regression from the pooled features, started from the teacher's own weights."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=1e-2)
    targets = torch.from_numpy(labels)
    views = [torch.from_numpy(rows.astype(np.float32)) for rows in features]
    steps = -(-len(labels) // batch) * len(views) * epochs
    rates = iter(np.linspace(2e-3, 0, steps))
    for _ in range(epochs):
        for rows in views:
            for chosen in torch.randperm(len(labels), generator=generator).split(batch):
                optimizer.param_groups[0]["lr"] = float(next(rates))
                loss = F.cross_entropy(head(F.dropout(rows[chosen], 0.2)), targets[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
