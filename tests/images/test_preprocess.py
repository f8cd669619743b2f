"""The runtime's pixels are those of Pillow and torchvision."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from timm.data import create_transform

from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from shvit.errors import ImageError
from shvit.images.preprocess import decode, kept_region, preprocess, resize_and_crop, resized_size

from ..conftest import SAMPLES


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def timm_pixels(image: Image.Image, size: int, crop_ratio: float) -> np.ndarray:
    transform = create_transform(
        input_size=(3, size, size), interpolation="bicubic", crop_pct=crop_ratio, mean=(0, 0, 0), std=(1, 1, 1)
    )
    return np.rint(transform(image).numpy() * 255).astype(np.uint8).transpose(1, 2, 0)


@settings(max_examples=150)
@given(
    width=st.integers(5, 500),
    height=st.integers(5, 500),
    size=st.integers(16, 160),
    crop_ratio=st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]),
)
@example(width=500, height=375, size=224, crop_ratio=0.875)
@example(width=375, height=500, size=256, crop_ratio=0.875)
@example(width=64, height=64, size=128, crop_ratio=0.875)
def test_pixels_are_those_of_timms_evaluation(width, height, size, crop_ratio):
    image = noise(width, height)
    ours = preprocess(image, Preprocessing((size, size), crop_ratio))
    expected = timm_pixels(image, size, crop_ratio)
    assert ours.shape == expected.shape
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.jpg")), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [128, 224, 256])
def test_pixels_of_photographs_are_those_of_timms_evaluation(sample, size):
    image = decode(sample)
    assert np.array_equal(preprocess(image, Preprocessing((size, size))), timm_pixels(image, size, 0.875))


def test_an_input_that_is_not_square_is_covered():
    image = noise(300, 200)
    pixels = preprocess(image, Preprocessing((64, 128), crop_ratio=1.0))
    assert pixels.shape == (64, 128, 3)
    assert resized_size(300, 200, Preprocessing((64, 128), crop_ratio=1.0)) == (128, 85)
    plain = image.resize((128, 85), Image.Resampling.BICUBIC).crop((0, 10, 128, 74))
    assert np.array_equal(pixels, np.asarray(plain))


def test_squash_keeps_everything():
    image = noise(300, 200)
    pixels = preprocess(image, Preprocessing((64, 128), resize_mode="squash", interpolation="bilinear"))
    assert np.array_equal(pixels, np.asarray(image.resize((128, 64), Image.Resampling.BILINEAR)))


def timms_border(image: Image.Image, image_size: tuple[int, int], interpolation: str) -> np.ndarray:
    transform = create_transform(
        input_size=(3, *image_size),
        interpolation=interpolation,
        crop_pct=1.0,
        crop_mode="border",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        normalize=False,
    )
    return transform(image).numpy().transpose(1, 2, 0)


@settings(max_examples=200)
@given(
    width=st.integers(5, 500),
    height=st.integers(5, 500),
    image_size=st.tuples(st.integers(16, 160), st.integers(16, 160)),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
@example(width=500, height=375, image_size=(224, 224), interpolation="bicubic")
@example(width=640, height=480, image_size=(160, 320), interpolation="bicubic")
@example(width=64, height=64, image_size=(128, 128), interpolation="bicubic")
def test_padded_pixels_are_those_of_timms_border_mode(width, height, image_size, interpolation):
    assume(max(width / height, height / width) < 10)  # timm fails where less than half a pixel is left
    image = noise(width, height)
    ours = preprocess(image, Preprocessing(image_size, resize_mode="pad", interpolation=interpolation))
    assert np.array_equal(ours, timms_border(image, image_size, interpolation))


@settings(max_examples=200)
@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    image_size=st.tuples(st.integers(1, 160), st.integers(1, 160)),
    interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_padded_pixels_are_those_of_pillow(size, image_size, interpolation, colour):
    """Of ``ImageOps.pad``, which rounds lengths and places of x.5 otherwise: those are left to timm."""
    (width, height), (rows, columns) = size, image_size
    inner_width, inner_height = (side * min(columns / width, rows / height) for side in size)
    assume(all(abs(side % 1 - 0.5) > 1e-6 and side > 0.5 for side in (inner_width, inner_height)))
    assume((columns - round(inner_width)) % 2 == (rows - round(inner_height)) % 2 == 0)
    image = noise(*size)
    ours = preprocess(
        image, Preprocessing(image_size, resize_mode="pad", interpolation=interpolation, pad_color=colour)
    )
    expected = ImageOps.pad(image, (columns, rows), Image.Resampling[interpolation.upper()], colour)
    assert np.array_equal(ours, np.asarray(expected))


def test_padding_is_on_both_sides_and_of_the_cards_colour():
    colour = (1, 2, 3)
    how = Preprocessing((64, 129), resize_mode="pad", pad_color=colour)
    pixels = preprocess(Image.new("RGB", (100, 200), (200, 100, 50)), how)
    assert (pixels[:, :48] == colour).all() and (pixels[:, 80:] == colour).all()
    assert (pixels[:, 48:80] == (200, 100, 50)).all()


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    image_size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    crop_ratio=st.floats(0.25, 1),
    resize_mode=st.sampled_from(["crop", "squash", "pad"]),
)
def test_where_the_input_lies_in_the_picture(width, height, image_size, crop_ratio, resize_mode):
    """Its middle is the picture's, within half a pixel of the input, and so it shows all or a part of it."""
    how = Preprocessing(image_size, crop_ratio, resize_mode)
    rows, columns = resize_and_crop(width, height, how)
    left, top, right, bottom = kept_region(width, height, how)
    for (start, end), axis, kept in (((top, bottom), rows, image_size[0]), ((left, right), columns, image_size[1])):
        pixel = axis.source / axis.resized  # of the input, in the picture's
        assert axis.kept == kept and axis.resized >= 1
        assert end - start == pytest.approx(kept * pixel)
        assert abs((start + end) / 2 - axis.source / 2) <= pixel * 0.5 + 1e-6
        if resize_mode == "crop":
            assert -1e-6 <= start < end <= axis.source + 1e-6
        elif resize_mode == "pad":
            assert start <= 1e-6 and end >= axis.source - 1e-6
        else:
            assert (start, end) == (0, pytest.approx(axis.source))
    if resize_mode == "pad":  # one side fills the input; the other has what the shape gives it, or one pixel
        assert rows.resized == rows.kept or columns.resized == columns.kept
        scale = min(image_size[0] / height, image_size[1] / width)
        for axis in (rows, columns):
            assert axis.resized == 1 or abs(axis.resized - axis.source * scale) <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 5_000)])
def test_extreme_shapes_are_padded_too(size):
    pixels = preprocess(Image.new("RGB", size, (200, 100, 50)), Preprocessing((128, 96), resize_mode="pad"))
    assert pixels.shape == (128, 96, 3)
    assert (pixels == (200, 100, 50)).all(-1).sum() == max(1, round(size[0] * min(128 / size[1], 96 / size[0]))) * max(
        1, round(size[1] * min(128 / size[1], 96 / size[0]))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 5_000)])
def test_extreme_shapes_cost_no_more_than_the_crop(size):
    colour = (200, 100, 50)
    pixels = preprocess(Image.new("RGB", size, colour), Preprocessing((128, 128)))
    assert pixels.shape == (128, 128, 3)
    assert (pixels == colour).all()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def asymmetric(mode: str) -> Image.Image:
    """A picture in which no two ways round are the same."""
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    image = Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))
    return image.convert(mode)


def transparent_palette() -> Image.Image:
    image = asymmetric("P")
    image.info["transparency"] = 3
    return image


PICTURES = {
    "greyscale JPEG": lambda: encoded(asymmetric("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(asymmetric("CMYK"), "JPEG"),
    "progressive JPEG": lambda: encoded(asymmetric("RGB"), "JPEG", progressive=True),
    "palette PNG": lambda: encoded(asymmetric("P"), "PNG"),
    "transparent palette PNG": lambda: encoded(transparent_palette(), "PNG", transparency=3),
    "alpha PNG": lambda: encoded(asymmetric("RGBA"), "PNG"),
    "grey and alpha PNG": lambda: encoded(asymmetric("L").convert("LA"), "PNG"),
    "one-bit PNG": lambda: encoded(asymmetric("1"), "PNG"),
    "animated GIF": lambda: encoded(
        asymmetric("P"), "GIF", save_all=True, append_images=[Image.new("P", (40, 30), 9)], duration=50
    ),
    "WebP": lambda: encoded(asymmetric("RGB"), "WEBP", lossless=True),
    "TIFF": lambda: encoded(asymmetric("RGB"), "TIFF"),
    "BMP": lambda: encoded(asymmetric("RGB"), "BMP"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_decoding_is_pillows(kind):
    data = PICTURES[kind]()
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    upright = asymmetric("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(upright))


def test_sixteen_bits_keep_their_range():
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    pixels = np.asarray(decode(encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG")))
    assert np.abs(pixels[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1


def test_floating_point_is_scaled_from_its_own_range():
    image = Image.fromarray(np.array([[-1.0, 0.0], [1.0, 3.0]], np.float32))
    assert np.asarray(decode(encoded(image, "TIFF")))[..., 0].tolist() == [[0, 64], [128, 255]]


def test_what_decode_accepts(tmp_path):
    image = asymmetric("RGB")
    file = tmp_path / "a.png"
    image.save(file)
    expected = np.asarray(image)
    for source in (str(file), file, file.read_bytes(), image, expected):
        assert np.array_equal(np.asarray(decode(source)), expected)
    grey = np.asarray(image.convert("L"))
    assert np.array_equal(np.asarray(decode(grey))[..., 1], grey)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(ImageError, match=r"expected uint8 of shape \(H, W, 3\)|empty"):
        decode(array)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    jpeg = encoded(noise(64, 64), "JPEG")
    files = {
        "empty": (b"", "the file is empty"),
        "truncated": (jpeg[: len(jpeg) // 2], "truncated"),
        "truncated header": (jpeg[:20], "."),
        "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n" * 20, "not an image"),
        "large": (encoded(Image.new("1", (12_000, 10_000)), "PNG"), "12000×10000 pixels, at most 100 megapixels"),
        "bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "larger than the 100 megapixels accepted"),
    }
    written = {}
    for name, (data, expected) in files.items():
        path = folder / f"{name}.jpg"
        path.write_bytes(data)
        written[name] = (path, expected)
    written["missing"] = (folder / "gone.jpg", "No such file")
    written["folder"] = (folder, "directory")
    return written


@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "truncated header", "pdf", "large", "bomb", "missing", "folder"]
)
def test_a_bad_file_is_one_line_with_its_name_and_the_reason(tmp_path, kind):
    path, expected = bad_files(tmp_path)[kind]
    with pytest.raises(ImageError, match=expected) as caught:
        decode(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    keep=st.floats(0.05, 1),
)
def test_damaged_bytes_decode_or_are_refused(kind, changes, keep):
    data = bytearray(encoded(noise(24, 16), kind))
    for where, value in changes:
        data[min(int(where * len(data)), len(data) - 1)] = value
    try:
        image = decode(bytes(data[: int(len(data) * keep)]), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB"
