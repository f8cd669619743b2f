from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
from collections import Counter
from multiprocessing.connection import wait

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader

from shvit.card import ClassInfo, Preprocessing
from shvit.data import Augmentation, Batch, BrokenImages, evaluation_loader, training_loader
from shvit.data.loader import BrokenImage, dead_workers_named, normalize
from shvit.data.sampler import EpochSampler, ShardSampler
from shvit.data.transforms import TrainTransform
from shvit.errors import DataError
from shvit.images.preprocess import decode, preprocess

torch.set_num_threads(1)


class Pictures:
    """A dataset in memory; what is not bytes is done when the image is read."""

    name = "pictures"
    classes = (ClassInfo(0, "even", None), ClassInfo(1, "odd", None))

    def __init__(self, count: int, **replaced) -> None:
        self.data: list = []
        for seed in range(count):
            buffer = io.BytesIO()
            pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, ("PNG", "JPEG")[seed % 2])
            self.data.append(buffer.getvalue())
        for place, value in replaced.items():
            self.data[int(place.removeprefix("at_"))] = value
        self.labels = np.arange(count) % 2

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> bytes:
        data = self.data[index]
        return data if isinstance(data, bytes) else data()

    def source(self, index: int) -> str:
        return f"pictures/{index}"


def missing() -> bytes:
    raise FileNotFoundError(2, "No such file or directory", "pictures/3")


def die() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def training(images: Pictures, batch_size: int = 3, workers: int = 0, views: int | None = None, **sampling):
    transform = TrainTransform(Augmentation(color_jitter=0.4, erase_probability=0.25), 32, seed=5)
    return training_loader(images, transform, EpochSampler(len(images), batch_size, seed=5, **sampling), workers, views)


def same(first: list[Batch], second: list[Batch]) -> bool:
    def tensors(batches: list[Batch]) -> list[torch.Tensor]:
        return [tensor for batch in batches for tensor in batch[:4]]

    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


SIZES = {
    "count": st.integers(1, 60),
    "batch_size": st.integers(1, 20),
    "repeats": st.integers(1, 4),
    "world_size": st.integers(1, 7),
    "start": st.integers(0, 3),
    "drop_last": st.booleans(),
}


@given(**SIZES)
def test_processes_together_see_the_batches_that_one_would(world_size, **sizes):
    alone = EpochSampler(**sizes, seed=1, epoch=2)
    parts = [list(EpochSampler(**sizes, seed=1, epoch=2, rank=r, world_size=world_size)) for r in range(world_size)]
    batches = list(alone)
    assert len(batches) == len(alone)
    for batch, *shares in zip(batches, *parts, strict=True):
        assert Counter(batch) == Counter(key for share in shares for key in share)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 4))
def test_an_epoch_takes_each_image_once_or_repeats_times(count, batch_size, repeats):
    keys = [key for batch in EpochSampler(count, batch_size, 1, 0, drop_last=False, repeats=repeats) for key in batch]
    assert len(keys) == len(set(keys)) == count
    copies = Counter(key.index for key in keys)
    assert sorted(copies.values())[1:] == [repeats] * (len(copies) - 1)
    for batch in EpochSampler(count, repeats * batch_size, 1, 0, repeats=repeats):
        assert Counter(Counter(key.index for key in batch).values()) == {repeats: batch_size}


def test_repeated_augmentation_is_timms():
    """The same number of samples and of distinct images in an epoch, with an image's copies on different processes."""
    count, world_size = 768, 3
    ours, theirs = (
        [
            [key.index for batch in EpochSampler(count, 96, 0, 0, repeats=3, rank=r, world_size=3) for key in batch]
            for r in range(world_size)
        ],
        [list(RepeatAugSampler(range(count), world_size, r, num_repeats=3)) for r in range(world_size)],
    )
    assert [len(share) for share in ours] == [len(share) for share in theirs]
    for shares in (ours, theirs):
        assert all(len(set(share)) == len(share) for share in shares)
        assert Counter(Counter(index for share in shares for index in share).values()) == {3: 256}


def test_the_order_follows_seed_and_epoch():
    orders = [list(EpochSampler(50, 10, seed, epoch)) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    indices = [[key.index for batch in order for key in batch] for order in orders]
    assert indices[0] != indices[2] and indices[0] != indices[3]
    assert list(EpochSampler(50, 10, 0, 0, start=3)) == orders[0][3:]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 7))
def test_evaluation_takes_every_image_exactly_once_over_all_processes(count, batch_size, world_size):
    samplers = [ShardSampler(count, batch_size, rank, world_size) for rank in range(world_size)]
    shares = [[key.index for batch in sampler for key in batch] for sampler in samplers]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    images = Pictures(10)
    first = list(training(images, epoch=1))
    assert len(first) == len(training(images, epoch=1)) == 3  # the incomplete fourth batch is left out
    assert first[0].images.dtype == torch.uint8
    assert first[0].images.shape == (3, 32, 32, 3)
    assert all(torch.equal(batch.labels, batch.indices % 2) for batch in first)
    torch.rand(7)  # what the process drew elsewhere must not matter
    assert same(first, list(training(images, epoch=1)))
    assert same(first, list(training(images, epoch=1, workers=2)))
    assert same(first[2:], list(training(images, epoch=1, start=2)))
    assert not same(first, list(training(images, epoch=2)))
    assert len({seed for batch in first for seed in batch.seeds.tolist()}) == 9


def test_processes_together_load_what_one_would():
    images = Pictures(10)
    for alone, *parts in zip(
        training(images, epoch=0), *(training(images, epoch=0, rank=r, world_size=2) for r in range(2)), strict=True
    ):
        for index, pixels, seed in zip(alone.indices, alone.images, alone.seeds, strict=True):
            (found,) = [part for part in parts if index in part.indices]
            place = found.indices.tolist().index(index)
            assert torch.equal(found.images[place], pixels)
            assert found.seeds[place] == seed


def test_copies_of_an_image_are_augmented_differently():
    (batch,) = training(Pictures(6), batch_size=6, epoch=0, repeats=3)
    assert batch.indices.unique().numel() == 2
    assert len({image.numpy().tobytes() for image in batch.images}) == 6
    assert batch.seeds.unique().numel() == 6


def test_a_teachers_views_come_again_and_exclude_copies():
    images, plain = Pictures(4), TrainTransform(Augmentation(mirror=False), 32, seed=5)
    views = []
    for epoch in range(4):
        (batch,) = training_loader(images, plain, EpochSampler(4, 4, 5, epoch), 0, views=2)
        views.append(batch.images[batch.indices.argsort()])
    assert torch.equal(views[0], views[2]) and torch.equal(views[1], views[3])
    assert not torch.equal(views[0], views[1])
    with pytest.raises(ValueError, match="repeats: a teacher's logits belong to one crop"):
        training(images, epoch=0, views=2, repeats=2)


def test_loading_does_not_touch_the_process_random_state():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    for workers in (0, 1):
        list(training(Pictures(4), epoch=0, workers=workers))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_evaluation_sees_every_image_through_the_runtimes_preprocessing(mode):
    images, preprocessing = Pictures(7), Preprocessing((16, 24), resize_mode=mode)
    batches = list(evaluation_loader(images, preprocessing, batch_size=3, workers=0))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(7))
    assert np.array_equal(batches[1].images[2].numpy(), preprocess(decode(images.read(5)), preprocessing))
    shard = list(evaluation_loader(images, preprocessing, batch_size=3, workers=0, rank=1, world_size=2))
    assert [batch.indices.tolist() for batch in shard] == [[1, 3, 5]]


BROKEN = {"at_3": missing, "at_4": b"not an image", "at_6": b""}
REASONS = {
    3: "No such file or directory",
    4: "not an image, or of a format that is not known",
    6: "the file is empty",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_named(workers):
    images, preprocessing = Pictures(9, **BROKEN), Preprocessing((32, 32))
    whole = list(evaluation_loader(Pictures(9), preprocessing, batch_size=3, workers=0))
    for loader in (training(images, epoch=0, workers=workers), evaluation_loader(images, preprocessing, 3, workers)):
        batches = list(loader)
        found = {each.index: each for batch in batches for each in batch.broken}
        assert {index: each.reason for index, each in found.items()} == REASONS
        assert found[4].source == "pictures/4"
        kept = torch.cat([batch.indices for batch in batches]).tolist()
        assert sorted(kept) == [0, 1, 2, 5, 7, 8]
        for batch in batches:
            assert len(batch.images) == len(batch.labels) == len(batch.indices) == len(batch.seeds)
    assert torch.equal(batches[1].images[0], whole[1].images[2])  # the one of the three that is whole


def test_a_batch_of_broken_images_is_empty():
    images = Pictures(3, at_0=b"", at_1=b"", at_2=b"")
    (batch,) = training(images, epoch=0)
    assert batch.images.shape == (0, 32, 32, 3)
    assert batch.labels.dtype == batch.indices.dtype == batch.seeds.dtype == torch.int64
    assert len(batch.broken) == 3
    assert normalize(batch.images).shape == (0, 3, 32, 32)


def test_too_many_broken_images_are_refused_by_name():
    def batch(*indices: int) -> Batch:
        empty = torch.empty(0)
        return Batch(empty, empty, empty, empty, tuple(BrokenImage(i, f"{i}.jpg", "is empty") for i in indices))

    broken = BrokenImages(0.02, 200, "pets")
    broken.add(batch(1, 2))
    broken.add(batch(2, 3))
    broken.add(batch(3, 4, 1))
    assert list(broken.found) == [1, 2, 3, 4]  # each counts once
    with pytest.raises(
        DataError,
        match=r"^pets: 5 of 200 images are broken, more than the accepted share of 0\.02: 1\.jpg \(is empty\), "
        r"2\.jpg \(is empty\), 3\.jpg \(is empty\), 2 more; shvit data check pets lists all of them$",
    ):
        broken.add(batch(5))
    with pytest.raises(DataError, match="1 of 200 images are broken"):
        BrokenImages(0, 200, "pets").add(batch(7))


# PyTorch's signal handler may raise inside of a destructor of PyTorch's, too, where nobody can catch it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("at_work", [False, True])
def test_a_worker_that_dies_ends_the_run_by_name(at_work):
    """Whether the main process waits for the worker's batch just then or is at work itself."""
    images = Pictures(12, at_7=die)
    for loader in (training(images, epoch=0, workers=2), evaluation_loader(images, Preprocessing((32, 32)), 3, 2)):
        with pytest.raises(DataError, match=r"DataLoader worker .*use fewer workers"), dead_workers_named():
            for _ in loader:
                if at_work:  # until one of the workers is dead
                    wait([each.sentinel for each in multiprocessing.active_children()])


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "gone")])
def test_a_batch_that_went_with_its_worker_is_a_worker_that_died(error, monkeypatch):
    def fetch(loader):
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", fetch)
    with pytest.raises(DataError, match=r"a DataLoader worker died with its batches: .*use fewer workers"):
        next(iter(training(Pictures(3), epoch=0)))


def test_other_errors_are_left_as_they_are():
    def bug() -> bytes:
        raise EOFError("of a dataset's own")

    with pytest.raises(EOFError, match="of a dataset's own"):
        list(training(Pictures(3, at_1=bug), epoch=0, workers=1))
    with pytest.raises(RuntimeError, match=r"^out of memory$"), dead_workers_named():
        raise RuntimeError("out of memory")


def test_normalize():
    images = torch.randint(0, 256, (2, 5, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = normalize(images)
    torch.testing.assert_close(found, ((images / 255 - mean) / std).permute(0, 3, 1, 2))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normalize(images[:, :, 2:5]), found[..., 2:5])
