from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from shvit.card import Preprocessing
from shvit.data import Augmentation, transforms
from shvit.data.transforms import GEOMETRY, TrainTransform, erase, jitter_color, random_box, sample_seed
from shvit.errors import ImageError
from shvit.images.crop import Box, TrainingImage
from shvit.images.preprocess import decode, preprocess, resize_and_crop, resized_size

torch.set_num_threads(1)


def noise(height: int = 48, width: int = 64, seed: int = 0) -> Image.Image:
    """Smooth enough that resizing it differently shows little, and without symmetry."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole(image: TrainingImage, target: tuple[int, int]) -> np.ndarray:
    return image.crop(Box(0, 0, *image.size), target)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decoding_gives_the_runtimes_pixels_in_every_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(37, 53), exif=exif, quality=90)
    expected = np.asarray(decode(data))
    assert np.array_equal(whole(TrainingImage(data), (64, 64)), expected)
    assert np.array_equal(TrainingImage(data).crop(Box(3, 5, 20, 30), (64, 64)), expected[3:23, 5:35])


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "JPEG", {"progressive": True, "comment": b"\xff\xe1 no segment"}),
        ("RGB", "JPEG", {"xmp": b'<x:xmpmeta tiff:Orientation="6"/>'}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {}),
    ],
)
def test_decoding_gives_the_runtimes_pixels_in_every_format(mode, kind, options):
    data = encoded(noise(37, 53).convert(mode), kind, **options)
    image = TrainingImage(data)
    assert image.size == (decode(data).height, decode(data).width)
    assert np.array_equal(whole(image, (64, 64)), np.asarray(decode(data)))


def test_a_large_jpeg_is_decoded_no_finer_than_its_crop_needs():
    data = encoded(noise(800, 1203), quality=95)
    full = np.asarray(decode(data))
    for fraction in (1, 2, 4, 8):
        target = (600 // (2 * fraction), 800 // (2 * fraction))
        crop = TrainingImage(data).crop(Box(80, 160, 600, 800), target)
        assert crop.shape[:2] == (600 // fraction, 800 // fraction)
        resized, exact = (
            np.asarray(Image.fromarray(each).resize(target[::-1], Image.Resampling.BICUBIC)).astype(int)
            for each in (crop, full[80:680, 160:960])
        )
        assert np.abs(resized - exact).max() <= 8
        assert np.abs(resized - exact).mean() < 1


def test_a_damaged_image_is_refused_in_the_runtimes_words():
    truncated = encoded(noise())[:-200]
    for data in (truncated, b"\xff\xd8\xff\xe1 no jpeg", b"", encoded(noise(), "PNG")[:-30]):
        with pytest.raises(ImageError) as expected:
            decode(data)
        with pytest.raises(ImageError) as found:
            whole(TrainingImage(data), (32, 32))
        assert str(found.value) == str(expected.value)


RATIOS = st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted).map(tuple)
SHARES = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple)


@given(st.tuples(st.integers(8, 500), st.integers(8, 500)), SHARES, RATIOS, st.integers(0, 2**62))
def test_crops_are_those_that_torchvision_draws(size, scale, aspect, seed):
    ours = random_box(size, scale, aspect, torch.Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = v2.RandomResizedCrop(1, scale, aspect).make_params([torch.empty(3, *size)])
    assert ours == (theirs["top"], theirs["left"], theirs["height"], theirs["width"])


@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), SHARES, RATIOS, st.integers(0, 2**62))
def test_crops_lie_inside_images_of_any_shape(size, scale, aspect, seed):
    top, left, height, width = random_box(size, scale, aspect, torch.Generator().manual_seed(seed))
    assert 0 <= top < top + height <= size[0]
    assert 0 <= left < left + width <= size[1]


def test_crops_stay_those_that_stored_logits_belong_to():
    assert sample_seed(5, GEOMETRY, 2, 7) == 8540055467399048149 >> 1
    assert sample_seed(5, GEOMETRY, 2, 7, copy=1) != sample_seed(5, GEOMETRY, 2, 7)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_resizing_is_pillows(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    for size in ((31, 47), (96, 100)):
        aspect = 4 / 3 * size[0] / size[1]  # of the image, as a multiple of the result's
        plain = Augmentation(crop_scale=(1, 1), crop_aspect=(aspect, aspect), mirror=False, interpolation=name)
        expected = image.resize(size[::-1], Image.Resampling[name.upper()])
        found = TrainTransform(plain, size, seed=0)(image, 0, view=0, epoch=0)
        assert found.shape == (*size, 3)
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


WHOLE = Augmentation(crop_scale=(1, 1), crop_aspect=(1, 1), mirror=False)


@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    image_size=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    mode=st.sampled_from(["pad", "squash"]),
)
def test_a_crop_of_everything_is_what_evaluation_sees(size, image_size, mode):
    image, how = noise(*size), Preprocessing(image_size, resize_mode=mode, pad_color=(250, 3, 99))
    found = TrainTransform(WHOLE, how, seed=0)(image, 0, view=0, epoch=0)
    expected = preprocess(image, how)
    assert found.shape == expected.shape
    # Where nothing of the picture is, colours are the same; where it is, PyTorch resizes as Pillow does, nearly.
    assert np.abs(found.astype(int) - expected).max() <= 3
    rows, columns = resize_and_crop(image.width, image.height, how)
    outside = np.ones(image_size, bool)
    outside[-rows.first : rows.resized - rows.first, -columns.first : columns.resized - columns.first] = False
    assert (found[outside] == (250, 3, 99)).all()


@given(
    size=st.tuples(st.integers(30, 200), st.integers(30, 200)),
    image_size=st.sampled_from([(64, 64), (32, 96), (96, 32)]),
    mode=st.sampled_from(["crop", "squash", "pad"]),
    seed=st.integers(0, 99),
)
def test_a_crop_has_the_shape_of_what_it_is_resized_to(size, image_size, mode, seed):
    """Nothing is bent by more than ``crop_aspect`` allows, whatever the shape of the picture and of the input."""
    boxes = []

    class Recorded(TrainingImage):
        def crop(self, box, target):
            boxes.append((box, target))
            return super().crop(box, target)

    how = Preprocessing(image_size, resize_mode=mode)
    plan = Augmentation(crop_scale=(0.1, 0.3), crop_aspect=(0.8, 1.25))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "TrainingImage", Recorded)
        pixels = TrainTransform(plan, how, seed)(noise(*size), 0, view=0, epoch=0)
    assert pixels.shape == (*image_size, 3)
    ((box, target),) = boxes
    height, width = size
    wanted = width / height if mode != "crop" else image_size[1] / image_size[0]
    rounding = (1 + 0.5 / min(box.height, box.width)) ** 2
    assert 0.8 / rounding <= box.width / box.height / wanted <= 1.25 * rounding
    whole_input = resized_size(width, height, how)[::-1] if mode == "pad" else image_size
    assert target == whole_input


def test_padding_keeps_its_colour_whatever_is_done_to_the_picture():
    plan = Augmentation(color_jitter=0.9, rand_augment=None)
    policy = Augmentation(rand_augment="rand-m9-n4-p1")
    how = Preprocessing((64, 64), resize_mode="pad", pad_color=(9, 8, 7))
    for each in (plan, policy):
        for index in range(10):
            pixels = TrainTransform(each, how, seed=1)(noise(20, 80), index, view=0, epoch=0)
            assert (pixels[:24] == (9, 8, 7)).all() and (pixels[40:] == (9, 8, 7)).all()
            assert (pixels[24:40] != (9, 8, 7)).any()


def test_random_interpolation_takes_both():
    def outputs(name: str) -> list[bytes]:
        plan = Augmentation(mirror=False, interpolation=name)
        return [TrainTransform(plan, 32, seed=0)(noise(), i, view=0, epoch=0).tobytes() for i in range(20)]

    both = list(zip(outputs("random"), outputs("bicubic"), outputs("bilinear"), strict=True))
    assert all(either in (cubic, linear) for either, cubic, linear in both)
    assert 4 < sum(either == cubic for either, cubic, _ in both) < 16


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


def test_images_are_mirrored_half_of_the_time():
    plan = Augmentation(crop_scale=(1, 1), crop_aspect=(1, 1))
    square = noise(32, 32)
    for crops_only in (False, True):
        transform = TrainTransform(plan, 32, seed=0, crops_only=crops_only)
        outputs = [transform(square, i, view=0, epoch=0) for i in range(200)]
        mirrored = [np.array_equal(each[:, ::-1], np.asarray(square)) for each in outputs]
        plain = [np.array_equal(each, np.asarray(square)) for each in outputs]
        assert all(a != b for a, b in zip(mirrored, plain, strict=True))
        assert 70 < sum(mirrored) < 130


FULL = Augmentation(color_jitter=0.4, rand_augment="rand-m9-mstd0.5-inc1")


@pytest.mark.parametrize("plan", [FULL, Augmentation(color_jitter=0.3, three_augment=True)])
def test_appearance_depends_on_seed_epoch_image_and_copy_alone(plan):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    transform = TrainTransform(plan, 32, seed=3)
    draws = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    first = [transform(noise(), index, epoch, epoch, copy) for index, epoch, copy in draws]
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[2])
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    again = [TrainTransform(plan, 32, seed=3)(noise(), i, epoch, epoch, copy) for i, epoch, copy in reversed(draws)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({each.tobytes() for each in first}) == len(first)
    same_crop = transform(noise(), 0, view=0, epoch=1)
    assert not np.array_equal(same_crop, first[0])


def test_rand_augment_is_set_up_as_timm_does():
    theirs = create_transform((3, 96, 64), is_training=True, auto_augment=FULL.rand_augment, interpolation="bicubic")
    ours = TrainTransform(FULL, (96, 64), seed=0)._policy
    timms = next(each for each in theirs.transforms if type(each) is type(ours))
    assert repr(ours) == repr(timms)
    assert [(each.hparams, each.kwargs) for each in ours.ops] == [(each.hparams, each.kwargs) for each in timms.ops]


def test_rand_augment_at_full_strength_does_not_stop_at_posterize():
    """timm asks Pillow for 0 bits there, which is an error since Pillow 13."""
    transform = TrainTransform(Augmentation(rand_augment="rand-m10-n8-p1-inc1"), 16, seed=0)
    for index in range(30):
        assert transform(noise(), index, view=0, epoch=0).shape == (16, 16, 3)


def test_three_augment_takes_one_of_three():
    image = noise(64, 64)
    plan = Augmentation(crop_scale=(1, 1), crop_aspect=(1, 1), mirror=False, three_augment=True)
    transform = TrainTransform(plan, 64, seed=0)
    outputs = [transform(image, index, view=0, epoch=0) for index in range(300)]
    grey = [bool((each == each[..., :1]).all()) for each in outputs]
    solarized = [np.array_equal(each, np.asarray(ImageOps.solarize(image, 128))) for each in outputs]
    blurred = [np.abs(each.astype(int) - np.asarray(image)).mean() < 12 for each in outputs]
    assert all(sum(kinds) == 1 for kinds in zip(grey, solarized, blurred, strict=True))
    assert all(70 < sum(kind) < 130 for kind in (grey, solarized, blurred))


def test_colour_jitter_has_torchvisions_distribution():
    image = noise(16, 16)
    theirs = v2.ColorJitter(0.4, 0.4, 0.4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = np.stack([np.asarray(theirs(image)).astype(float) for _ in range(1500)])
    rng = np.random.default_rng(0)
    found = np.stack([np.asarray(jitter_color(image, 0.4, rng)).astype(float) for _ in range(1500)])
    for statistic in (lambda x: x.mean(0), lambda x: x.std(0), lambda x: x.std((1, 2)).mean(0)):
        assert np.abs(statistic(found) - statistic(expected)).max() < 6


def erased(images: torch.Tensor) -> list[tuple[float, float, float, float]]:
    """Area and aspect of each image's rectangle, and where its middle lies, as shares."""
    found = []
    for mask in images.ne(0).any(1).numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert mask.sum() == height * width
            found.append((mask.mean(), height / width, rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]))
    return found


def test_erasing_has_timms_distributions():
    count = 3000
    ours = erase(torch.zeros(count, 1, 40, 56), torch.arange(count), 0.5)
    random_state = random.getstate()
    random.seed(0)
    with torch.random.fork_rng(devices=[]):
        theirs = RandomErasing(0.5, mode="pixel", device="cpu")(torch.zeros(count, 1, 40, 56))
    random.setstate(random_state)
    found, expected = np.array(erased(ours)), np.array(erased(theirs))
    assert abs(len(found) - len(expected)) < 4 * np.sqrt(count / 2)
    assert abs(len(found) - count / 2) < 4 * np.sqrt(count / 4)
    for column in range(4):
        points = np.quantile(expected[:, column], np.linspace(0.05, 0.95, 10))
        shares = [np.mean(values[:, column, None] <= points, axis=0) for values in (found, expected)]
        assert np.abs(shares[0] - shares[1]).max() < 0.07  # two-sample Kolmogorov–Smirnov at 0.1 %
    noise = ours[ours.ne(0)]
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_erasing_depends_on_each_images_seed_alone():
    images, seeds = torch.zeros(16, 3, 32, 32), torch.arange(100, 116)
    together = erase(images.clone(), seeds, 0.7)
    apart = [erase(images[:1].clone(), seeds[i : i + 1], 0.7)[0] for i in range(16)]
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert 4 < sum(bool(each.any()) for each in together) < 16


def test_what_erasing_leaves():
    images = torch.ones(8, 3, 32, 32)
    assert torch.equal(erase(images.clone(), torch.arange(8), 0), images)
    for mode in ("rand", "const"):
        colors = erase(images.clone(), torch.arange(8), 1, mode).flatten(2)
        for image in colors:
            assert all(len(set(channel.tolist()) - {1.0}) == 1 for channel in image)
        assert (colors.eq(0).any() and colors.unique().numel() == 2) == (mode == "const")


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_scale": (0.9, 0.2)},
        {"crop_scale": (0, 1)},
        {"crop_aspect": (2, 1)},
        {"crop_aspect": (0, 1)},
        {"interpolation": "nearest"},
        {"color_jitter": 2},
        {"rand_augment": "m9"},
        {"rand_augment": "rand-m9-mstd"},
        {"rand_augment": "rand-m9-std0.5"},
        {"erase_probability": -0.1},
        {"erase_mode": "noise"},
        {"three_augment": True, "rand_augment": "rand-m9"},
    ],
)
def test_bad_augmentation_is_refused_with_the_fields_name(fields):
    with pytest.raises(ValueError, match=rf"^{next(iter(fields))}: "):
        Augmentation(**fields)
