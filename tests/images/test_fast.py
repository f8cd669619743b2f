"""Fast decoding: how near its pixels are to the exact ones, and that it refuses what those refuse."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shvit import Classifier
from shvit.card import Preprocessing
from shvit.errors import ImageError
from shvit.images.preprocess import ImageSource, decode, preprocess
from shvit.install import install_command

from ..conftest import PATIENCE, SAMPLES
from .test_preprocess import PICTURES, asymmetric, bad_files, encoded, noise

pytest.importorskip("kornia_rs", reason="needs shvit[fast]")
from shvit.images.fast import SPARE_DETAIL, preprocess_fast

PHOTOGRAPHS = sorted(SAMPLES.glob("*.jpg"))


def exact(source: ImageSource, preprocessing: Preprocessing) -> np.ndarray:
    return preprocess(decode(source), preprocessing)


def difference(source: ImageSource, preprocessing: Preprocessing) -> tuple[float, int]:
    """Mean and largest, in levels of 255."""
    fast = preprocess_fast(source, preprocessing)
    expected = exact(source, preprocessing)
    assert (fast.dtype, fast.shape) == (np.uint8, expected.shape)
    apart = np.abs(fast.astype(int) - expected)
    return float(apart.mean()), int(apart.max())


def photograph(path: Path, width: int, height: int, **options) -> bytes:
    """A photograph at another size, as a JPEG."""
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return encoded(image, "JPEG", quality=92, **options)


@settings(max_examples=40)
@given(
    path=st.sampled_from(PHOTOGRAPHS),
    width=st.integers(40, 900),
    height=st.integers(40, 900),
    size=st.sampled_from([64, 96, 128, 224]),
    crop_ratio=st.sampled_from([0.5, 0.875, 1.0]),
    interpolation=st.sampled_from(["bicubic", "lanczos", "bilinear"]),
    resize_mode=st.sampled_from(["crop", "squash", "pad"]),
    progressive=st.booleans(),
)
def test_pixels_of_photographs_are_near(path, width, height, size, crop_ratio, interpolation, resize_mode, progressive):
    data = photograph(path, width, height, progressive=progressive)
    how = Preprocessing((size, size), crop_ratio, resize_mode, interpolation)
    mean, most = difference(data, how)
    resized = size if resize_mode == "squash" else size / crop_ratio
    if min(width, height) >= 2 * SPARE_DETAIL * resized:  # may be decoded at a fraction of its size
        assert mean < 2
        assert most <= 40
    else:
        assert mean < 0.5
        assert most <= 24
    if interpolation == "bilinear":
        assert most == 0


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [128, 224, 256])
def test_the_samples_are_near(path, size):
    mean, most = difference(path, Preprocessing((size, size)))
    assert mean < 0.5
    assert most <= 10


@pytest.mark.parametrize(
    ("size", "fraction"),
    [((3000, 2000), 2), ((2003, 3001), 2), ((4001, 2999), 4), ((1793, 1795), 2), ((1025, 1027), 1), ((1020, 1020), 1)],
)
def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(size, fraction, monkeypatch):
    """Where that leaves twice the detail, and whole pixels to cut along: not for half of 1025 to 256."""
    fractions = []

    def recorded(data, header, fraction):
        fractions.append(fraction)
        return decode_fraction(data, header, fraction)

    from shvit.images import fast
    from shvit.images.jpeg import decode_fraction

    monkeypatch.setattr(fast, "decode_fraction", recorded)
    mean, most = difference(photograph(PHOTOGRAPHS[0], *size), Preprocessing((224, 224)))
    assert fractions == [fraction]
    assert mean < 1
    assert most <= 20


@settings(max_examples=50)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    crop_ratio=st.sampled_from([0.5, 0.875, 1.0]),
    resize_mode=st.sampled_from(["crop", "squash", "pad"]),
)
def test_every_size_gives_an_image_in_its_place(width, height, size, crop_ratio, resize_mode):
    """A smooth picture, of which a part from elsewhere would be seen, comes out within three levels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = np.stack([100 + 60 * x, 100 + 60 * y, 100 + 30 * (x + y)], axis=-1)
    how = Preprocessing(size, crop_ratio, resize_mode)
    assert difference(np.rint(picture).astype(np.uint8), how)[1] <= 3


@pytest.mark.parametrize("kind", PICTURES)
def test_other_kinds_of_pictures_are_near(kind):
    # Pillow rounds and clips to 8 bits between its two passes, the other does not; black and white edges show it most.
    mean, most = difference(PICTURES[kind](), Preprocessing((32, 32)))
    assert mean < (3 if kind == "one-bit PNG" else 0.5)
    assert most <= 30


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [2, 30])
def test_every_exif_orientation_comes_out_upright(orientation, scale):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = asymmetric("RGB").resize((40 * scale, 30 * scale))
    assert difference(encoded(picture, "JPEG", quality=95, exif=exif), Preprocessing((48, 48)))[0] < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 5_000), (5_000, 3)])
def test_extreme_shapes(size):
    for data in (encoded(Image.new("RGB", size, (200, 100, 50)), kind) for kind in ("PNG", "JPEG")):
        assert difference(data, Preprocessing((128, 128)))[1] <= 1


def test_bad_files_are_refused_in_the_same_words(tmp_path):
    for kind, (path, _) in bad_files(tmp_path).items():
        expected = outcome(exact, path)
        assert expected is not None
        assert outcome(preprocess_fast, path) == expected, kind


def outcome(way, source: ImageSource) -> str | None:
    try:
        way(source, Preprocessing((16, 16)))
    except ImageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_refused_or_taken_alike(progressive):
    data = encoded(noise(40, 24), "JPEG", progressive=progressive)
    for length in range(0, len(data) + 1, 7):
        assert outcome(preprocess_fast, data[:length]) == outcome(exact, data[:length]), length
    for length in range(len(data) - 6, len(data) + 1):
        assert outcome(preprocess_fast, data[:length]) == outcome(exact, data[:length]), length


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
)
def test_a_damaged_jpeg_is_refused_or_taken_alike(changes, mode):
    data = bytearray(encoded(asymmetric(mode), "JPEG"))
    for where, value in changes:
        data[min(int(where * len(data)), len(data) - 1)] = value
    assert outcome(preprocess_fast, bytes(data)) == outcome(exact, bytes(data))


def test_a_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded():
    data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = (60_000).to_bytes(2, "big") * 2
    assert outcome(preprocess_fast, bytes(data)) == outcome(exact, bytes(data))
    assert "megapixels" in str(outcome(preprocess_fast, bytes(data)))


def test_a_classifier_decodes_as_it_was_told():
    classifier = Classifier(decoding="fast", threads=2)
    pixels = classifier.preprocess(PHOTOGRAPHS[0])
    assert np.array_equal(pixels, preprocess_fast(PHOTOGRAPHS[0], classifier.card.preprocessing))
    results = classifier.predict([*PHOTOGRAPHS, b"no image"], top_k=1)
    expected = Classifier(threads=2).predict([*PHOTOGRAPHS, b"no image"], top_k=1)
    assert [each.error for each in results] == [each.error for each in expected]
    assert [each.predictions[:1] and each.predictions[0].label for each in results[:4]] == [
        each.predictions[:1] and each.predictions[0].label for each in expected[:4]
    ]


def test_a_way_that_there_is_not():
    with pytest.raises(ValueError, match="decoding: expected one of exact, fast, got 'quick'"):
        Classifier(decoding="quick")


def test_what_is_missing_is_named_with_the_command_that_installs_it():
    for package in ("kornia_rs", "simplejpeg"):
        code = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "import shvit\n"
            "try: shvit.Classifier(decoding='fast')\n"
            "except ImportError as error: print(error)\n"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE).stdout
        assert install_command("fast") in answer


def test_pillow_and_simplejpeg_decode_to_the_same_pixels():
    from shvit.images.jpeg import decode_fraction, read_header

    for path in PHOTOGRAPHS:
        data = path.read_bytes()
        header = read_header(data)
        assert header is not None
        pixels = decode_fraction(data, header, 1)
        assert pixels is not None
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
