"""Pictures to a video file: H.264 in MP4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shvit.atomic import atomic_path
from shvit.errors import VideoError
from shvit.video.containers import av
from shvit.video.frames import MATRICES, colour_matrix

_TIME_BASE = Fraction(1, 90_000)
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""The first that this libav has is taken."""


class VideoEncoder:
    """Takes pictures with their times; made by ``open_encoder``."""

    def __init__(self, container: Any, threads: int) -> None:
        self._container, self._threads = container, threads
        self._stream: Any = None
        self._last = -1

    def write(self, picture: Image.Image, time: float) -> None:
        """Adds one picture.

        Args:
            picture: RGB. The first settles the size, rounded down to even numbers; later ones are resized to it.
            time: seconds, later than the last one's; kept as it is, at any and at changing rates.
        """
        if self._stream is None:
            self._begin(picture.width // 2 * 2, picture.height // 2 * 2)
        size = (self._stream.width, self._stream.height)
        if picture.size != size:
            near = abs(picture.width - size[0]) <= 1 and abs(picture.height - size[1]) <= 1
            picture = picture.crop((0, 0, *size)) if near else picture.resize(size)
        frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=self._matrix)
        self._last = max(round(time / _TIME_BASE), self._last + 1)
        frame.pts, frame.time_base = self._last, _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def _begin(self, width: int, height: int) -> None:
        name = next(each for each in _ENCODERS if each in av.codecs_available)
        self._stream = self._container.add_stream(name, rate=30, options={"preset": "veryfast", "crf": "23"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._matrix = colour_matrix(width, height)  # what players take where they do not look at what is stated
        self._stream.codec_context.colorspace = next(tag for tag, each in MATRICES.items() if each == self._matrix)
        self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
        self._stream.codec_context.thread_count = self._threads

    @property
    def empty(self) -> bool:
        """Whether it was given no picture."""
        return self._stream is None

    def finish(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


class _EmptyError(Exception):
    """There is nothing to give the file's name to."""


@contextmanager
def open_encoder(path: Path, threads: int = 1) -> Iterator[VideoEncoder]:
    """A video file that is there whole, or not at all; none without a picture.

    Raises:
        VideoError: it cannot be written.
    """
    try:
        with suppress(_EmptyError), atomic_path(path) as aside:
            with av.open(str(aside), "w", format="mp4") as container:
                encoder = VideoEncoder(container, threads)
                yield encoder
                encoder.finish()
            if encoder.empty:
                raise _EmptyError
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be written: {error.strerror}") from None
