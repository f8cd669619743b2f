"""Frames with their time, out of files of all kinds; damage in its place."""

from __future__ import annotations

import socket
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs shvit[video]")

from shvit.errors import VideoError  # noqa: E402
from shvit.video.frames import Damage, Frame, ReadOptions, Video, frames  # noqa: E402

from ..conftest import PATIENCE, SAMPLES  # noqa: E402
from .clips import coloured, plain, quarters, write_clip  # noqa: E402


def read(path: Path, **options) -> tuple[list[Frame], list[Damage]]:
    with Video(path, ReadOptions(**options)) as video:
        items = list(video)
    return [each for each in items if isinstance(each, Frame)], [each for each in items if isinstance(each, Damage)]


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", coloured(("red", 30), ("blue", 30)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".mov"])
def test_every_frame_once_with_its_time_and_colours(tmp_path, suffix):
    found, damage = read(write_clip(tmp_path / f"clip{suffix}", coloured(("red", 30), ("blue", 30))))
    assert not damage
    assert [each.index for each in found] == list(range(60))
    np.testing.assert_allclose([each.time for each in found], np.arange(60) / 25, atol=2e-3)
    assert np.abs(found[29].image.mean((0, 1)) - (200, 20, 20)).max() < 6
    assert np.abs(found[30].image.mean((0, 1)) - (20, 20, 200)).max() < 6
    assert (found[0].image.dtype, found[0].image.shape, found[0].size) == (np.uint8, (48, 64, 3), (64, 48))


def test_several_threads_give_the_same_frames(clip):
    one, several = (read(clip, threads=threads)[0] for threads in (1, 3))
    assert [each.time for each in one] == [each.time for each in several]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, several, strict=True))


def test_what_the_file_says_of_itself(clip):
    with Video(clip) as video:
        assert (video.width, video.height, video.codec) == (64, 48, "h264")
        assert video.rate == pytest.approx(25)
        assert video.duration == pytest.approx(2.4, abs=0.05)


def test_changing_frame_rates_keep_their_times_and_begin_at_zero(tmp_path):
    times = [3.0, 3.04, 3.5, 3.52, 5.0, 5.01]
    found, damage = read(write_clip(tmp_path / "vfr.mkv", coloured(("green", 6)), times=times))
    assert not damage
    np.testing.assert_allclose([each.time for each in found], np.array(times) - 3.0, atol=2e-3)


def test_so_many_frames_a_second(clip):
    assert [each.index for each in frames(clip, fps=5)] == list(range(0, 60, 5))
    assert [each.index for each in frames(clip, fps=100)] == list(range(60))
    with pytest.raises(ValueError, match="fps: expected a positive number"):
        next(frames(clip, fps=0))


def test_key_frames_only(clip):
    found, damage = read(clip, keyframes=True)
    assert not damage
    everything = {round(each.time, 3) for each in read(clip)[0] if each.decoded.key_frame}
    assert {round(each.time, 3) for each in found} == everything
    assert 5 <= len(found) <= 7


ONE = 65536
MATRICES = {
    # rows (a, b, u), (c, d, v), (x, y, w); how the stored picture is turned to be shown
    (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30): lambda picture: picture,
    (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30): lambda picture: np.rot90(picture, -1),
    (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30): lambda picture: np.rot90(picture, 2),
    (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30): lambda picture: np.rot90(picture),
    (-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30): lambda picture: picture[:, ::-1],
    (ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30): lambda picture: picture[::-1],
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_display_matrix_is_followed(tmp_path, matrix):
    (frame,), damage = read(write_clip(tmp_path / "turned.mp4", [quarters()], matrix=matrix))
    expected = MATRICES[matrix](quarters())
    assert not damage
    assert frame.image.shape == expected.shape
    assert frame.size == expected.shape[1::-1]
    for picture, step in ((frame.image, 1), (frame.resized(frame.size[0] // 2, frame.size[1] // 2), 2)):
        inside = (slice(4, -4), slice(4, -4))
        assert np.abs(picture[inside].astype(int) - expected[::step, ::step][inside]).mean() < 12


def test_the_rotation_that_ffmpeg_writes_is_the_one_that_it_shows(tmp_path, program):
    """The same file turned by ffmpeg's own decoder."""
    stored = write_clip(tmp_path / "stored.mp4", [quarters()] * 3)
    turned, shown = tmp_path / "turned.mov", tmp_path / "shown.png"
    for arguments in (
        ["-i", stored, "-c", "copy", "-metadata:s:v", "rotate=90", turned],
        ["-i", turned, "-frames:v", "1", shown],
    ):
        subprocess.run([program("ffmpeg"), "-v", "error", "-y", *map(str, arguments)], check=True, timeout=PATIENCE)
    from PIL import Image

    expected = np.asarray(Image.open(shown).convert("RGB"))
    image = read(turned)[0][0].image
    assert image.shape == expected.shape == (64, 48, 3)
    assert np.abs(image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("size", "codec", "pixel_format", "suffix"),
    [
        ((33, 17), "ffv1", "bgr0", ".mkv"),
        ((65, 49), "libx264", "yuv444p", ".mp4"),
        ((1, 1), "ffv1", "bgr0", ".mkv"),
        ((64, 48), "libx264", "yuv420p10le", ".mp4"),
        ((64, 48), "libx265", "yuv420p10le", ".mkv"),
        ((64, 48), "ffv1", "gray16le", ".mkv"),
        ((64, 48), "mjpeg", "yuvj420p", ".avi"),
    ],
)
def test_odd_sizes_and_depths(tmp_path, size, codec, pixel_format, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"this libav cannot encode {codec}")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_clip(
        tmp_path / f"odd{suffix}", [plain("green", *size)] * 4, codec=codec, pixel_format=pixel_format, options=options
    )
    found, damage = read(path)
    assert (len(found), damage) == (4, [])
    assert found[0].image.shape == (size[1], size[0], 3)
    if not pixel_format.startswith("gray"):
        assert np.abs(found[0].image.mean((0, 1)) - (20, 200, 20)).max() < 6


def test_raw_streams_without_time_stamps_get_steady_times(tmp_path):
    found, _ = read(write_clip(tmp_path / "raw.h264", coloured(("red", 20)), format="h264"))
    steps = np.diff([each.time for each in found])
    assert len(found) == 20
    assert found[0].time == 0
    assert steps.min() > 0
    assert np.ptp(steps) < 1e-6


def write_sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return path


def test_sound_alone_is_no_video(tmp_path):
    with pytest.raises(VideoError, match=r"sound\.wav: no video in it, only audio$"):
        Video(write_sound(tmp_path / "sound.wav"))


def test_a_cover_is_no_video(tmp_path, program):
    song = tmp_path / "song.m4a"
    command = [
        program("ffmpeg"),
        "-v",
        "error",
        "-i",
        write_sound(tmp_path / "sound.wav"),
        "-i",
        SAMPLES / "coffee.jpg",
    ]
    more = ["-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic", song]
    subprocess.run(list(map(str, command + more)), check=True, timeout=PATIENCE)
    with pytest.raises(VideoError, match="no video in it, only audio and a cover"):
        Video(song)


def test_what_is_not_a_video_is_one_clear_error(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    (tmp_path / "empty.mp4").touch()
    for name, reason in (
        ("text.mp4", "not a video"),
        ("empty.mp4", "not a video"),
        ("gone.mp4", "No such file"),
        (".", "is a folder"),
    ):
        with pytest.raises(VideoError, match=reason):
            Video(tmp_path / name)


def cut_short(clip: Path, share: float) -> Path:
    """The same with the index in front, and so much of it."""
    data = clip.read_bytes()
    short = clip.with_name(f"short{clip.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("suffix", "options"), [(".mp4", {"movflags": "faststart"}), (".mkv", {})])
def test_a_file_that_is_cut_short_gives_its_beginning_and_says_where_it_ends(tmp_path, suffix, options, threads):
    clip = tmp_path / f"clip{suffix}"
    pictures = coloured(("red", 50), ("green", 50), ("blue", 50), size=(160, 120))
    with av.open(str(clip), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    found, damage = read(cut_short(clip, 0.6), threads=threads)
    assert 60 <= len(found) <= 110
    assert np.abs(found[20].image.mean((0, 1)) - (200, 20, 20)).max() < 6
    assert damage
    assert "it should last 6.0" in damage[-1].reason
    assert damage[-1].time == pytest.approx(found[-1].time + 0.04, abs=0.01)


def corrupted(clip: Path, share: float, length: int) -> Path:
    data = bytearray(clip.read_bytes())
    start = int(len(data) * share)
    data[start : start + length] = np.random.default_rng(0).bytes(length)
    damaged = clip.with_name(f"damaged{clip.suffix}")
    damaged.write_bytes(data)
    return damaged


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_damage_in_the_middle_is_told_with_its_time_and_the_rest_is_read(tmp_path, suffix):
    clip = write_clip(tmp_path / f"clip{suffix}", coloured(("red", 75), ("blue", 75), size=(160, 120)))
    found, damage = read(corrupted(clip, 0.5, 1500))
    assert damage
    assert all(2.0 < each.time < 4.2 for each in damage), damage
    assert found[-1].time == pytest.approx(149 / 25, abs=0.1)
    assert len(found) > 110
    with pytest.raises(VideoError, match=r"damaged at [23]\.\d+ s"):
        list(frames(corrupted(clip, 0.5, 1500)))


@pytest.mark.parametrize("seek", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi"])
def test_reading_goes_on_from_a_position(tmp_path, suffix, seek):
    whole, _ = read(write_clip(tmp_path / f"clip{suffix}", coloured(("red", 40), ("green", 40))))
    rest, _ = read(tmp_path / f"clip{suffix}", start=whole[47].position, seek=seek)
    assert [(each.index, each.time) for each in rest] == [(each.index, each.time) for each in whole[47:]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(rest, whole[47:], strict=True))


def test_a_position_that_is_not_there_is_an_error(clip, tmp_path):
    whole, _ = read(clip)
    short = write_clip(tmp_path / "other.mp4", coloured(("red", 10)))
    for seek in (True, False):
        with pytest.raises(VideoError, match=r"has no frame at 2\.\d+ s any more"):
            read(short, start=whole[-1].position, seek=seek)


def test_pictures_of_a_size_that_takes_all_memory_are_not_made(tmp_path):
    bomb = tmp_path / "bomb.y4m"
    bomb.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(5000))
    try:
        found, damage = read(bomb)
    except VideoError:
        return
    assert not found
    assert damage


def test_a_playlist_in_a_file_fetches_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        playlist = tmp_path / "list.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(VideoError):
            found, damage = read(playlist)
            if damage and not found:
                raise VideoError("nothing came of it")
        with pytest.raises(TimeoutError):
            server.accept()
