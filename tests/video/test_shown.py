"""Pictures as players show them: square pixels and the right colours."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="needs shvit[video]")

from shvit.batch.inputs import read_items  # noqa: E402
from shvit.batch.listing import Item  # noqa: E402
from shvit.card import Preprocessing  # noqa: E402
from shvit.video.classify import frame_preparation  # noqa: E402
from shvit.video.encode import open_encoder  # noqa: E402
from shvit.video.frames import MAX_PIXELS, Frame, ReadOptions, Video, frames, shown_size  # noqa: E402
from shvit.video.live import LiveSource, LiveStatistics  # noqa: E402

from ..conftest import PATIENCE  # noqa: E402
from .clips import plain, quarters, write_clip  # noqa: E402
from .test_command import shvit_video  # noqa: E402
from .test_frames import MATRICES  # noqa: E402

BT601, BT709, BT2020 = 5, 1, 9
"""As libswscale numbers them."""


@pytest.mark.parametrize(
    ("stored", "aspect", "shown"),
    [
        ((720, 576), Fraction(64, 45), (1024, 576)),
        ((720, 576), Fraction(16, 15), (768, 576)),
        ((720, 480), Fraction(8, 9), (720, 540)),
        ((720, 480), Fraction(32, 27), (853, 480)),
        ((1440, 1080), Fraction(4, 3), (1920, 1080)),
        ((352, 576), Fraction(1, 2), (352, 1152)),
        ((64, 48), Fraction(1), (64, 48)),
        ((64, 48), Fraction(1, 10**6), (64, 48)),  # damage
        ((64, 48), Fraction(10**6), (64, 48)),
        ((64, 48), Fraction(0), (64, 48)),
        ((64, 48), Fraction(-2), (64, 48)),
        ((9000, 9000), Fraction(2), (9000, 4500)),  # enlarged, it would be too large
        ((1, 1), Fraction(16), (16, 1)),
    ],
)
def test_the_size_with_square_pixels(stored, aspect, shown):
    assert shown_size(*stored, aspect) == shown
    assert shown[0] * shown[1] <= MAX_PIXELS


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(2, 3)])
def test_wide_and_narrow_pixels_become_square_and_are_then_turned(tmp_path, aspect, matrix):
    path = write_clip(tmp_path / "wide.mp4", [quarters()], matrix=matrix, aspect=aspect)
    (frame,) = frames(path)
    shown = (128, 48) if aspect > 1 else (64, 72)
    expected = MATRICES[matrix](quarters(*shown))
    assert frame.image.shape == expected.shape
    assert frame.size == expected.shape[1::-1]
    inside = (slice(6, -6), slice(6, -6))
    assert np.abs(frame.image[inside].astype(int) - expected[inside]).mean() < 12
    half = frame.resized(frame.size[0] // 2, frame.size[1] // 2)
    assert np.abs(half[inside].astype(int) - expected[::2, ::2][inside]).mean() < 12
    with Video(path) as video:
        assert (video.width, video.height) == shown


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        (".mkv", "libx264", "yuv420p"),
        (".ts", "mpeg2video", "yuv420p"),
        (".avi", "mpeg4", "yuv420p"),
        (".mov", "qtrle", "rgb24"),  # only the container has it
    ],
)
def test_the_shape_is_found_wherever_it_is_written(tmp_path, suffix, codec, pixel_format):
    path = write_clip(
        tmp_path / f"wide{suffix}", [quarters()] * 12, codec=codec, pixel_format=pixel_format, aspect=Fraction(4, 3)
    )
    with Video(path, ReadOptions(threads=2)) as video:
        assert [each.size for each in video if isinstance(each, Frame)] == [(85, 48)] * 12


def test_the_shape_may_change_within_a_broadcast(tmp_path):
    wide, narrow = (
        write_clip(tmp_path / f"{number}.m2v", [quarters()] * 4, codec="mpeg2video", aspect=aspect, format="mpeg2video")
        for number, aspect in enumerate((Fraction(4, 3), Fraction(1)))
    )
    both = tmp_path / "both.m2v"
    both.write_bytes(wide.read_bytes() + narrow.read_bytes())
    sizes = [each.size for each in frames(both)]
    assert sizes[:3] == [(85, 48)] * 3  # the fourth still waits in the decoder when the change is read
    assert sizes[4:] == [(64, 48)] * 4


@pytest.mark.parametrize("fast", [False, True])
def test_the_network_sees_the_shape_that_is_shown(tmp_path, fast):
    """A circle stays one: the same as the picture of square pixels."""
    rows, columns = np.mgrid[:192, :256]
    circle = (200 * ((rows - 96) ** 2 + (columns - 128) ** 2 < 80**2)).astype(np.uint8)
    square = np.repeat(circle[:, :, None], 3, 2)
    squeezed = np.asarray(Image.fromarray(square).resize((128, 192), Image.Resampling.BOX))
    prepare = frame_preparation(Preprocessing((64, 64)), fast)
    (frame,) = frames(write_clip(tmp_path / "wide.mp4", [squeezed], aspect=Fraction(2)))
    (expected,) = frames(write_clip(tmp_path / "square.mp4", [square]))
    assert np.abs(prepare(frame).astype(int) - prepare(expected)).mean() < 3


def test_everything_that_reads_videos_has_the_shape_that_is_shown(tmp_path, colour_model):
    path = write_clip(tmp_path / "wide.mp4", [quarters(360, 288)] * 10, aspect=Fraction(64, 45))
    (first, *_) = read_items([Item(str(path), None)], "video", None)
    assert first.data.shape == (288, 512, 3)
    live = iter(LiveSource(str(path), LiveStatistics()))
    assert next(live).size == (512, 288)
    live.close()
    page = tmp_path / "page.html"
    done = shvit_video(path, "--model", colour_model, "--save-video", tmp_path / "out", "--report", page)
    assert done.returncode == 0, done.stderr
    assert "512×288" in page.read_text()
    assert [each.size for each in frames(tmp_path / "out/wide.mp4")] == [(512, 288)] * 10


COLOUR = (200, 60, 30)


@pytest.mark.parametrize(
    ("size", "tag", "stored"),
    [
        ((1280, 720), 2, BT709),  # nothing is said: what players take
        ((1280, 64), 2, BT709),
        ((64, 578), 2, BT709),
        ((720, 576), 2, BT601),
        ((720, 480), 2, BT601),
        ((1280, 720), 6, BT601),  # it is said
        ((1280, 720), 5, BT601),
        ((720, 576), 1, BT709),
        ((720, 576), 7, 7),
        ((720, 576), 9, BT2020),
        ((720, 576), 8, BT601),  # what cannot be converted, or cannot be, is guessed
        ((1280, 720), 3, BT709),
        ((1280, 720), 0, BT709),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_those_that_players_show(tmp_path, size, tag, stored, full_range):
    picture = np.full((size[1], size[0], 3), COLOUR, np.uint8)
    path = write_clip(
        tmp_path / "a.mp4", [picture], options={"preset": "ultrafast"}, stored=stored, full_range=full_range
    )
    with Video(path) as video:
        frame = next(each for each in video if isinstance(each, Frame))
        assert frame.decoded.colorspace == 2
        frame.decoded.colorspace = tag
        for image in (frame.image, frame.resized(32, 32)):
            assert np.abs(image.mean((0, 1)) - COLOUR).max() <= 3


def test_tags_are_read_from_the_file(tmp_path):
    picture = np.full((64, 64, 3), COLOUR, np.uint8)
    for tag in (1, 6):
        (frame,) = frames(write_clip(tmp_path / f"{tag}.mp4", [picture], colourspace=tag))
        assert frame.decoded.colorspace == tag
        assert np.abs(frame.image.mean((0, 1)) - COLOUR).max() <= 3


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), "bt709"), ((720, 576), "bt601")])
def test_pixels_are_those_of_ffmpeg_with_the_matrix_that_players_take(tmp_path, program, size, matrix):
    rows, columns = np.mgrid[: size[1], : size[0]]
    picture = np.stack([columns * 255 // size[0], rows * 255 // size[1], (rows + columns) // 4 % 256], -1).astype(
        np.uint8
    )
    path, shown = write_clip(tmp_path / "a.mp4", [picture], options={"preset": "ultrafast"}), tmp_path / "shown.png"
    scale = f"scale=in_color_matrix={matrix}:flags=bilinear"
    command = [program("ffmpeg"), "-v", "error", "-y", "-i", path, "-vf", scale, "-pix_fmt", "rgb24", shown]
    subprocess.run(list(map(str, command)), check=True, timeout=PATIENCE)
    (frame,) = frames(path)
    difference = np.abs(frame.image.astype(int) - np.asarray(Image.open(shown).convert("RGB")))
    assert difference.mean() < 0.5
    assert difference.max() <= 3


@pytest.mark.parametrize("size", [(1280, 720), (640, 480)])
def test_what_is_written_is_read_again_in_its_colours(tmp_path, size):
    path = tmp_path / "out.mp4"
    with open_encoder(path) as encoder:
        encoder.write(Image.fromarray(plain("green", *size)), 0)
    (frame,) = frames(path)
    assert frame.decoded.colorspace == (1 if size[0] == 1280 else 5)
    assert np.abs(frame.image.mean((0, 1)) - (20, 200, 20)).max() < 3


def test_motion_jpeg_is_of_full_range_and_601_at_any_size(tmp_path):
    path: Path = tmp_path / "a.avi"
    picture = np.full((720, 1280, 3), COLOUR, np.uint8)
    write_clip(path, [picture], codec="mjpeg", pixel_format="yuvj420p", full_range=True)
    (frame,) = frames(path)
    assert np.abs(frame.image.mean((0, 1)) - COLOUR).max() < 4
