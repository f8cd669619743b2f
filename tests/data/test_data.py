from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from shvit.data import Augmentation, evaluation_loader, open_dataset, training_loader
from shvit.data.datasets import ParquetImages, fingerprint
from shvit.data.loader import normalize
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import TrainTransform
from shvit.errors import DataError
from shvit.runtime.card import Preprocessing
from shvit.runtime.preprocess import decode, preprocess

WNIDS = ("n01443537", "n02124075")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    for split, count in (("train", 5), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            for i in range(count):
                path = tmp_path / split / wnid / "more" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(10 * label + i).save(path)
    return tmp_path


def write_parquet(path: Path, labels: list[int], names: list[str] | None) -> None:
    images = []
    for i, _ in enumerate(labels):
        buffer = io.BytesIO()
        picture(i).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)


def test_class_folders(folder):
    (folder / "classes.json").write_text(json.dumps([{"label": 0, "wnid": WNIDS[0], "name": "goldfish"}]))
    train, val = open_dataset(folder, "train"), open_dataset(folder, "val")
    assert (len(train), len(val)) == (10, 4)
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    assert [(each.label, each.wnid) for each in train.classes] == [("goldfish", WNIDS[0]), (WNIDS[1], WNIDS[1])]
    assert np.array_equal(np.asarray(decode(train.read(6))), np.asarray(picture(11)))
    assert train.source(6).endswith("n02124075/more/1.png")


def test_parquet_shards_are_one_dataset(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 1, 0], ["cat", "dog"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1], ["cat", "dog"])
    dataset = open_dataset(tmp_path, "train")
    assert len(dataset) == 5
    assert dataset.labels.tolist() == [0, 1, 1, 0, 1]
    assert [each.label for each in dataset.classes] == ["cat", "dog"]
    assert np.array_equal(np.asarray(decode(dataset.read(3))), np.asarray(picture(3)))
    assert np.array_equal(np.asarray(decode(dataset.read(4))), np.asarray(picture(0)))
    assert dataset.source(4) == f"{tmp_path}:0.png"


def test_what_cannot_be_a_dataset_says_what_was_expected(tmp_path, folder):
    with pytest.raises(DataError, match=r"nothing: no such file or folder"):
        open_dataset(tmp_path / "nothing", "train")
    (folder / "train" / "n03000000").mkdir()
    with pytest.raises(DataError, match=r"no images in the folder of class 'n03000000'"):
        open_dataset(folder, "train")
    only_train = tmp_path / "only"
    (only_train / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no val split; looked for a folder or Parquet files named val, validation"):
        open_dataset(only_train, "val")
    with pytest.raises(DataError, match=r"expected one sub-folder for each class"):
        open_dataset(only_train, "train")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"broken\.parquet: cannot be read as Parquet"):
        ParquetImages([broken])
    write_parquet(tmp_path / "labels.parquet", [0, 7], ["cat", "dog"])
    with pytest.raises(DataError, match="labels run from 0 to 7, but there are 2 classes"):
        ParquetImages([tmp_path / "labels.parquet"])


def test_the_fingerprint_follows_images_and_labels(folder):
    before = fingerprint(open_dataset(folder, "train"))
    assert fingerprint(open_dataset(folder, "train")) == before
    picture(99).save(folder / "train" / WNIDS[0] / "more" / "0.png")
    assert fingerprint(open_dataset(folder, "train")) != before


def batches(folder: Path, epoch: int, start: int = 0, workers: int = 0, views: int | None = None) -> list[torch.Tensor]:
    dataset = open_dataset(folder, "train")
    transform = TrainTransform(Augmentation(color_jitter=0.4), 32, seed=5)
    sampler = EpochSampler(len(dataset), 3, seed=5, epoch=epoch, start=start)
    return [batch.images for batch in training_loader(dataset, transform, sampler, workers, views)]


def test_augmentation_depends_on_seed_epoch_and_image_alone(folder):
    first = batches(folder, epoch=1)
    assert len(first) == 3  # the incomplete fourth batch is left out
    assert first[0].dtype == torch.uint8
    assert first[0].shape == (3, 32, 32, 3)
    torch.rand(7)  # what the process drew elsewhere must not matter
    for again in (batches(folder, epoch=1), batches(folder, epoch=1, workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(batches(folder, epoch=1, start=2)[0], first[2])
    assert not torch.equal(batches(folder, epoch=2)[0], first[0])


def test_augmentation_does_not_touch_the_process_random_state(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(folder, epoch=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_view_has_the_same_crop_in_every_epoch_and_at_every_size():
    image = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    plain = Augmentation(mirror=False)
    crops = [
        TrainTransform(plain, size, seed=1, crops_only=crops)(image, 4, view=2, epoch=epoch)
        for size, crops, epoch in ((32, False, 2), (32, False, 9), (64, True, 0))
    ]
    assert np.array_equal(crops[0], crops[1])
    larger = np.asarray(Image.fromarray(crops[2]).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(larger.astype(int) - crops[0].astype(int)).max() <= 4
    other = TrainTransform(plain, 32, seed=1)(image, 4, view=3, epoch=2)
    assert not np.array_equal(other, crops[0])


def test_evaluation_sees_every_image_once_through_the_runtimes_preprocessing(folder):
    dataset, preprocessing = open_dataset(folder, "val"), Preprocessing((16, 16))
    seen = list(evaluation_loader(dataset, preprocessing, batch_size=3, workers=0))
    assert torch.cat([batch.indices for batch in seen]).tolist() == [0, 1, 2, 3]
    expected = preprocess(decode(dataset.read(3)), preprocessing)
    assert np.array_equal(seen[1].images[0].numpy(), expected)


def test_normalize():
    images = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    expected = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert normalize(images)[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_tiny_imagenet(tiny_imagenet):
    train, val = open_dataset(tiny_imagenet, "train"), open_dataset(tiny_imagenet, "val")
    assert (len(train), len(val), len(train.classes)) == (100_000, 10_000, 200)
    assert train.classes[0].label.startswith("goldfish")
    assert train.classes == val.classes
    assert decode(train.read(99_999)).size == (64, 64)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"crop_scale": (0.9, 0.2)}, "crop_scale"),
        ({"crop_scale": (0, 1)}, "crop_scale"),
        ({"color_jitter": 2}, "color_jitter"),
    ],
)
def test_bad_augmentation_is_refused_with_the_fields_name(fields, expected):
    with pytest.raises(ValueError, match=expected):
        Augmentation(**fields)
