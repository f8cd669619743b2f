"""Every frame of the picture, wherever its stream stands among the others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs shvit[video]")

from shvit.batch.inputs import read_items  # noqa: E402
from shvit.batch.listing import Item  # noqa: E402
from shvit.video.frames import Damage, Frame, ReadOptions, Video  # noqa: E402

from .clips import coloured, plain, write_clip  # noqa: E402

COUNT = 17
"""Fewer than a decoder with many threads and B-frames could hold back all of."""

PLACES = {
    "alone": ("picture",),
    "sound first": ("sound", "picture"),
    "two sounds first": ("sound", "sound", "picture"),
    "sound around": ("sound", "picture", "sound"),
    "picture first": ("picture", "sound"),
    "cover first": ("cover", "sound", "picture"),
    "cover last": ("sound", "picture", "cover"),
    "data first": ("data", "picture"),
    "another picture after it": ("sound", "picture", "other"),
}
CONTAINERS = {
    ".mp4": {*PLACES} - {"data first"},
    ".mov": {*PLACES} - {"data first"},
    ".mkv": {*PLACES} - {"data first", "cover first", "cover last"},
    ".ts": {*PLACES} - {"cover first", "cover last"},
    ".avi": {*PLACES} - {"data first", "cover first", "cover last"},
}
"""Which of those can be written by libav."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """Files of one stream each, to be put together."""
    folder = tmp_path_factory.mktemp("parts")
    options = {"bf": "2", "preset": "ultrafast", "x264-params": "bframes=2:b-adapt=0"}
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8192), np.float32), "fltp", "mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return {
        "picture": write_clip(folder / "picture.mp4", coloured(("red", COUNT)), options=options),
        "picture for .avi": write_clip(
            folder / "avi.mp4", coloured(("red", COUNT)), codec="mpeg4", options={"bf": "2"}
        ),
        "other": write_clip(folder / "other.mp4", coloured(("blue", 3), size=(128, 96)), codec="mpeg4"),
        "cover": write_clip(folder / "cover.mp4", [plain("green")], codec="mjpeg", pixel_format="yuvj420p"),
        "sound": folder / "sound.mp4",
    }


def put_together(path: Path, parts: dict[str, Path], names: tuple[str, ...]) -> Path:
    """A file of these streams, in this order, their packets as they are."""
    with av.open(str(path), "w") as container:
        packets = []
        for name in names:
            if name == "data":
                stream = container.add_data_stream()
                packet = av.Packet(b"position")
                packet.pts = packet.dts = 0
                packet.time_base, packet.stream = Fraction(1, 1000), stream
                packets.append(packet)
                continue
            with av.open(str(parts.get(f"{name} for {path.suffix}", parts[name]))) as part:
                stream = container.add_stream_from_template(part.streams[0])
                if stream.type == "video":
                    stream.time_base = Fraction(1, 25)  # AVI has no other times
                for packet in part.demux():
                    if packet.size:
                        packet.stream = stream
                        packets.append(packet)
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("place", PLACES)
def test_every_frame_wherever_the_picture_is_among_the_streams(tmp_path, parts, suffix, place):
    if place not in CONTAINERS[suffix]:
        pytest.skip(f"{suffix} has no such stream")
    path = put_together(tmp_path / f"clip{suffix}", parts, PLACES[place])
    with av.open(str(path)) as container:  # that the file is as this test believes
        index = PLACES[place].index("picture")
        stream = container.streams[index]
        assert (stream.type, len(container.streams)) == ("video", len(PLACES[place]))
        assert sum(len(packet.decode()) for packet in container.demux(stream)) == COUNT
    for threads in (1, 2, 4):
        with Video(path, ReadOptions(threads=threads)) as video:
            items = list(video)
        assert [each for each in items if isinstance(each, Damage)] == []
        found = [each for each in items if isinstance(each, Frame)]
        assert [each.index for each in found] == list(range(COUNT)), threads
        np.testing.assert_allclose([each.time for each in found], np.arange(COUNT) / 25, atol=2e-3)
        assert found[-1].size == (64, 48)
        # libav gives other times after a search in an AVI with sound; a run that goes on sees that by the pictures.
        with Video(path, ReadOptions(threads=threads, start=found[12].position, seek=suffix != ".avi")) as video:
            assert [each.index for each in video] == list(range(12, COUNT))
    inputs = list(read_items([Item(str(path), None)], "video", None))
    assert [each.error for each in inputs] == [None] * COUNT
