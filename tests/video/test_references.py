"""Containers that name other files or addresses: of a file, nothing else is ever opened; of a stream, no file."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

av = pytest.importorskip("av", reason="needs shvit[video]")

from shvit.batch.inputs import read_items  # noqa: E402
from shvit.batch.listing import Item  # noqa: E402
from shvit.errors import VideoError  # noqa: E402
from shvit.images.sources import VIDEO_EXTENSIONS  # noqa: E402
from shvit.video.containers import FILE_FORMATS, STREAM_FORMATS  # noqa: E402
from shvit.video.frames import Frame, Video  # noqa: E402

from .clips import coloured, plain, write_clip  # noqa: E402
from .test_command import lines, shvit_video  # noqa: E402

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"


@pytest.fixture
def other(tmp_path) -> Path:
    """A video that something else names: its frames show that it was opened."""
    return write_clip(tmp_path / "other.ts", coloured(("red", 5)))


REFERENCES = {
    "ffconcat": "ffconcat version 1.0\nfile other.ts\n",
    "HLS": PLAYLIST.format("other.ts"),
    "HLS by its whole path": PLAYLIST.format("{folder}/other.ts"),
    "HLS by address": PLAYLIST.format("file://{folder}/other.ts"),
    "SDP": "v=0\nc=IN IP4 127.0.0.1\nm=video 50000 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "vobsub": "# VobSub index file, v7\nsize: 64x48\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
    "lavfi": "color=red:size=64x48:duration=1",
    "metadata": ";FFMETADATA1\ntitle=a\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">'
    '<Period><AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>other.ts</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts", ".ffconcat", ".sdp", ".idx"])
@pytest.mark.parametrize("kind", REFERENCES)
def test_a_file_that_names_another_is_no_video(tmp_path, other, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"list{suffix}"
    path.write_text(REFERENCES[kind].replace("{folder}", str(tmp_path)))
    for name in (path, path.name):
        with pytest.raises(VideoError, match="not a video"):
            Video(name)
    (given,) = read_items([Item(str(path), None)], "video", None)
    assert given.error is not None
    assert given.error.startswith("not a video")


def test_names_that_are_patterns_or_protocols_to_libav_are_names(tmp_path, other, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:other.ts|other.ts", "subfile,,start,0,end,9999,,:other.ts", "a%02d.mjpeg", "data:,a", "fd:0"):
        with pytest.raises(VideoError, match="No such file or directory"):
            Video(name)
        other.with_name(name).write_bytes(other.read_bytes())
        with Video(name) as video:
            assert sum(isinstance(each, Frame) for each in video) == 5
    for number in range(3):
        Image.fromarray(plain("red")).save(tmp_path / f"b{number}.jpg")
    for name in ("b%d.jpg", "b*.jpg"):
        (tmp_path / name).write_bytes(b"a pattern, to libav")
        with pytest.raises(VideoError, match="not a video"):
            Video(name)


@pytest.mark.parametrize(
    "scheme", ["file", "concat", "subfile", "crypto+file", "cache", "async", "pipe", "unix", "ftp"]
)
def test_addresses_of_other_kinds_are_not_opened(other, scheme, colour_model):
    source = f"{scheme}://{other}"
    with pytest.raises(
        VideoError,
        match=rf"{scheme}:// is not read; expected a file's path, or a stream at rtsp://".replace("+", r"\+"),
    ):
        Video(source)
    if scheme == "file":
        done = shvit_video(source, "--model", colour_model)
        assert done.returncode == 2
        assert "file:// is not read" in done.stderr


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is a pipe, a socket or a device; expected a regular file"):
        Video(tmp_path / "pipe.mp4")


def with_outside_data(path: Path, target: Path) -> Path:
    """An MP4 whose samples are said to be in another file, by an alias record in its ``dref``."""
    name = str(target).encode()
    name += b"\0" * (len(name) % 2)
    record = bytes(10) + b"\x01" + b"v".ljust(27, b"\0") + bytes(12) + bytes([len(target.name)])
    record += target.name.encode().ljust(63, b"\0") + bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + struct.pack(">Hh", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    data = bytearray(path.read_bytes())
    old = struct.pack(">I4sI", 12, b"url ", 1)
    place = data.index(old)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.rindex(kind, 0, place) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(entry) - len(old))
    data[place : place + len(old)] = entry
    path.write_bytes(data)
    return path


def test_a_movie_whose_pictures_are_in_another_file_has_none(tmp_path):
    other = write_clip(tmp_path / "other.mp4", coloured(("red", 5)))
    path = tmp_path / "movie.mp4"
    path.write_bytes(other.read_bytes())
    with_outside_data(path, other)
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5  # that it would be followed
    with Video(path) as video:
        items = list(video)
    assert not any(isinstance(each, Frame) for each in items)
    assert items[-1].reason == "not one frame can be decoded"


@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    served = tmp_path / "served"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_playlist_at_an_address_gets_its_parts_there_but_no_file(tmp_path, server, other):
    (tmp_path / "served/part.ts").write_bytes(other.read_bytes())
    (tmp_path / "served/good.m3u8").write_text(PLAYLIST.format("part.ts"))
    with Video(f"{server}/good.m3u8") as video:
        assert sum(isinstance(each, Frame) for each in video) == 5
    for number, place in enumerate((f"file://{other}", str(other), f"file:{other}", f"concat:{other}|{other}")):
        (tmp_path / f"served/{number}.m3u8").write_text(PLAYLIST.format(place))
        (tmp_path / f"served/{number}.ffconcat").write_text(f"ffconcat version 1.0\nfile '{place}'\n")
        for suffix in ("m3u8", "ffconcat"):
            with pytest.raises(VideoError), Video(f"{server}/{number}.{suffix}") as video:
                assert not any(isinstance(each, Frame) for each in video)
                raise VideoError("nothing came of it")


def test_the_formats_that_are_read_are_those_of_the_extensions_and_of_this_libav(tmp_path):
    known = {part for name in av.formats_available for part in name.split(",")} | {"dash"}  # not in every build
    assert {*FILE_FORMATS, *STREAM_FORMATS} <= known
    opening = {"concat", "hls", "dash", "imf", "sdp", "rtsp", "image2", "lavfi", "vobsub", "webm_dash_manifest"}
    assert not opening & {*FILE_FORMATS}
    raw = {".h264": "h264", ".hevc": "hevc", ".mjpeg": "mjpeg", ".ivf": "ivf", ".y4m": "yuv4mpegpipe", ".dv": "dv"}
    for suffix in VIDEO_EXTENSIONS - {".rm", ".rmvb", ".divx", ".ogm", ".ogv"}:
        assert raw.get(suffix, "mov") in FILE_FORMATS


@pytest.mark.parametrize("threads", [1, 2])
def test_a_video_without_a_frame_leaves_no_file_of_its_copy(tmp_path, colour_model, threads):
    clip = write_clip(tmp_path / "clip.mp4", coloured(("red", 5)))
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    (size,) = struct.unpack_from(">I", data, start - 8)
    data[start : start + size - 8] = bytes(size - 8)
    clip.write_bytes(data)
    playlist = tmp_path / "list.mp4"
    playlist.write_text(REFERENCES["ffconcat"])
    frames, copies = tmp_path / "frames.jsonl", tmp_path / "copies"
    arguments = ("--model", colour_model, "--threads", threads, "--save-video", copies, "--frames", frames)
    done = shvit_video(clip, playlist, *arguments)
    assert done.returncode == 1, done.stderr
    assert "not one frame can be decoded" in done.stdout
    assert list(copies.iterdir()) == []
    assert {Path(each["source"]).name for each in lines(frames.read_text()) if "error" in each} == {
        "clip.mp4",
        "list.mp4",
    }
