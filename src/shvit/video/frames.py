"""Videos as frames with their time: files, network streams and cameras, decoded by PyAV (libav).

``frames(path)`` is the short way. ``Video`` also tells size, duration and rate, gives damage in its place among the
frames, and goes on where an earlier reading stood.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shvit.errors import VideoError, check_positive
from shvit.images.preprocess import MAX_PIXELS
from shvit.video.containers import av, is_live, open_container, picture_stream, reason

_LOG_LEVEL = av.logging.get_level()
"""What PyAV was told to log before this module was loaded; nothing, unless somebody asked for it."""

READ_TIMEOUT = 10.0
"""Seconds after which a stream that sends nothing counts as lost."""

_DEMUX_ERRORS = 16
"""So many errors without a packet between them, and reading ends: what follows is not the file any more."""

_SEEK_EARLY = 10.0
"""Seconds before a position that are decoded again: formats without an index are searched but roughly."""

_ENDS_EARLY = 1.0
"""A file may end so many seconds before the duration that it states without being cut off."""

_STATING_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf", "mxf"}
"""Those whose duration is written in the file; of others libav guesses it from what there is."""

MAX_ASPECT = 16
"""A pixel's longer side divided by its shorter one, at most."""

_SCALING, _COLOURS = av.video.reformatter.Interpolation, av.video.reformatter.Colorspace

MATRICES = {
    1: _COLOURS.ITU709,
    4: _COLOURS.FCC,
    5: _COLOURS.ITU601,
    6: _COLOURS.ITU601,
    7: _COLOURS.SMPTE240M,
    9: _COLOURS.BT2020,
    10: _COLOURS.BT2020,  # with constant luminance: nearly the same
}
"""libswscale's numbers to those of H.273."""

_thread = threading.local()

logging.getLogger("libav").addHandler(logging.NullHandler())  # what is logged by others at the same time


@dataclass(frozen=True)
class Position:
    """Where a reading stands: at a frame that has been dealt with."""

    index: int
    pts: int | None
    """The frame's time stamp in the file's units, if that can be looked for."""
    origin: int | None
    """The first frame's."""
    time: float


@dataclass(frozen=True)
class Damage:
    """A place in a video that could not be read, or was read with parts made up by the decoder."""

    time: float
    """Seconds from the first frame."""
    reason: str
    until: float | None = None
    """Where a longer stretch of the same ends."""


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is to be turned: rows and columns exchanged first, then mirrored."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Orientation:
        """The nearest of the eight to a display matrix, ``int32 (9)`` as ISO 14496-12 has it."""
        a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turns ``(H, W, 3)``; a view."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


@dataclass(frozen=True)
class Frame:
    """One picture of a video, converted only when it is asked for."""

    time: float
    """Seconds from the first frame; grows from frame to frame."""
    index: int
    """Its number among the frames decoded, from 0; with ``keyframes``, among the key frames."""
    duration: float
    """Seconds until the next frame is due."""
    position: Position = field(repr=False)
    arrival: float
    """``time.monotonic()`` when the data that holds it was handed over by the file, the network or the camera."""
    decoded: Any = field(repr=False)
    """PyAV's frame."""
    orientation: Orientation = Orientation()
    aspect: Fraction = Fraction(1)
    """Width of a stored pixel, before it is turned, divided by its height."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown: of square pixels, the right way up."""
        width, height = shown_size(self.decoded.width, self.decoded.height, self.aspect)
        return (height, width) if self.orientation.transpose else (width, height)

    @property
    def image(self) -> np.ndarray:
        """``uint8 (H, W, 3)``, RGB, as shown: of square pixels, the right way up.

        Raises:
            VideoError: it is of a kind that cannot be converted.
        """
        stored = self.decoded.width, self.decoded.height
        shown = shown_size(*stored, self.aspect)
        return self._convert(*shown, None if shown == stored else _SCALING.BICUBIC)

    def resized(self, width: int, height: int) -> np.ndarray:
        """The picture at another size, ``uint8 (height, width, 3)``, resized by libav in the video's own colours.

        A fraction of the time that ``image`` and a resize take, and not quite the same pixels: every pixel is the mean
        of an area, or bicubic where it is enlarged.

        Raises:
            VideoError: it is of a kind that cannot be converted.
        """
        if self.orientation.transpose:
            width, height = height, width
        shrinks = width <= self.decoded.width and height <= self.decoded.height
        return self._convert(width, height, _SCALING.AREA if shrinks else _SCALING.BICUBIC)

    def _convert(self, width: int, height: int, interpolation: int | None) -> np.ndarray:
        try:
            reformatter = _thread.__dict__.setdefault(
                "reformatter", av.video.reformatter.VideoReformatter()
            )  # keeps its tables
            matrix = colour_matrix(self.decoded.width, self.decoded.height, self.decoded.colorspace)
            converted = reformatter.reformat(
                self.decoded, width, height, "rgb24", matrix, matrix, interpolation=interpolation, threads=1
            )
            return np.ascontiguousarray(self.orientation.apply(converted.to_ndarray()))
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise VideoError(f"frame at {self.time:.3f} s: cannot be converted to RGB: {reason(error)}") from None


def shown_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size of a picture once its pixels are square: one side grows, so that nothing of the other is lost.

    Args:
        width: of the stored picture.
        aspect: a pixel's width divided by its height; beyond ``MAX_ASPECT`` it is taken for damage, and for square.
    """
    if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        return width, height
    wider, higher = max(aspect, Fraction(1)), max(1 / aspect, Fraction(1))
    wide, high = round(width * wider), round(height * higher)
    if wide * high > MAX_PIXELS:  # then the other side shrinks
        wide, high = max(round(width / higher), 1), max(round(height / wider), 1)
    return wide, high


def colour_matrix(width: int, height: int, tag: int = 2) -> int:
    """What a stored picture's YCbCr is taken for, as libswscale numbers it.

    Where the video does not say, or says what libswscale does not know, that is what players take: BT.709 from high
    definition on (1280 columns or more than 576 rows), else BT.601.

    Args:
        width: of the stored picture.
        tag: what it says, as H.273 numbers matrix coefficients; 2 is none.
    """
    known = MATRICES.get(tag)
    if known is not None:
        return int(known)
    return int(_COLOURS.ITU709 if width >= 1280 or height > 576 else _COLOURS.ITU601)


def frames(path: str | Path, fps: float | None = None, keyframes: bool = False, threads: int = 1) -> Iterator[Frame]:
    """The frames of a video, in the order in which they are shown.

    Args:
        path: a file, a stream's address, or a camera such as ``/dev/video0``.
        fps: at most so many a second, the first of each interval; all when not given.
        keyframes: only those that stand by themselves, which is many times as fast.
        threads: that decode.

    Raises:
        VideoError: it cannot be read; or, after all frames that could be, it was damaged.
    """
    damaged: list[Damage] = []
    with Video(path, ReadOptions(fps, keyframes, threads)) as video:
        for item in video:
            if isinstance(item, Frame):
                yield item
            else:
                damaged.append(item)
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise VideoError(f"{path}: damaged at {damaged[0].time:.3f} s: {damaged[0].reason}{more}")


@dataclass(frozen=True)
class ReadOptions:
    """How a video is read, and which of its frames."""

    fps: float | None = None
    """At most so many frames a second, the first of each interval; all when not given."""
    keyframes: bool = False
    """Only those that stand by themselves."""
    threads: int = 1
    """That decode."""
    fast: bool = False
    """Leave out the smoothing of frames that no other refers to; a little sooner, not quite the same pixels."""
    low_delay: bool = False
    """Hand out each frame as soon as it is there, as for a live source."""
    timeout: float = READ_TIMEOUT
    """Seconds that a network source or camera may be silent."""
    start: Position | None = None
    """Begin with the frame of this position."""
    seek: bool = True
    """Jump to ``start``; else everything before it is decoded and dropped."""

    def __post_init__(self) -> None:
        if self.fps is not None:
            check_positive("fps", self.fps)


class Video:
    """A video that is being read; iterate over it once, for its frames and its damage in the order of time.

    Args:
        source: a file, a stream's address, or a camera such as ``/dev/video0``.

    Raises:
        VideoError: there is no such source, it is not a video, or it has no pictures.
    """

    width: int
    """Stated width, in square pixels; may ignore rotation. Use ``Frame.size``."""
    height: int
    """Stated height, as ``width``."""
    duration: float | None
    """Seconds, as the file states it."""
    rate: float | None
    """Frames a second, on average, as the file states it."""
    codec: str

    def __init__(self, source: str | Path, options: ReadOptions = ReadOptions()) -> None:
        self.source = str(source)
        self._options, self._start = options, options.start
        self._container = open_container(self.source, options.low_delay, options.timeout)
        try:
            self._stream = picture_stream(self._container, self.source)
            context = self._stream.codec_context
            context.thread_count = options.threads
            # Threads that each decode a frame of their own hold back as many frames as there are.
            context.thread_type = "SLICE" if options.low_delay else "AUTO"
            context.options = {"max_pixels": str(MAX_PIXELS), **({"skip_loop_filter": "noref"} if options.fast else {})}
            if options.keyframes:
                context.skip_frame = "NONKEY"
            self.codec = context.codec.name
            stated = self._stream.sample_aspect_ratio
            # What the container states holds; what the pictures themselves state may change from one to the next.
            self._stated_aspect = stated if stated != context.sample_aspect_ratio else None
            self.width, self.height = shown_size(context.width, context.height, self._aspect())
            self._time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
            rate = self._stream.average_rate or self._stream.guessed_rate
            self.rate = float(rate) if rate else None
            self._step = 1 / self.rate if self.rate else 1 / 25
            self.duration = self._stated_duration()
            self._origin: int | None = None
            self._rotation: int | None = None
            self._last_packet, self._packets_seen = 0.0, 0
            start = options.start
            self._seeking = start is not None and options.seek and start.pts is not None
            if start is not None and self._seeking:
                self._origin = start.origin
                early = start.pts - round(_SEEK_EARLY / self._time_base) if start.pts is not None else 0
                self._container.seek(max(early, start.origin or 0), stream=self._stream)
        except av.error.FFmpegError as error:
            self._container.close()
            raise VideoError(f"{self.source}: {reason(error)}") from None
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def _stated_duration(self) -> float | None:
        if self._stream.duration:
            return float(self._stream.duration * self._time_base)
        return self._container.duration / 1e6 if self._container.duration else None

    def __iter__(self) -> Iterator[Frame | Damage]:
        """Raises: VideoError: the position to start from is not in it; nothing was given then."""
        selected: int | None = None
        started = self._start is None
        for item in self._all():
            if not started and self._start is not None:
                if isinstance(item, Damage) or not self._is_start(item):
                    continue
                started = True
            if isinstance(item, Frame) and self._options.fps is not None:
                interval = math.floor(item.time * self._options.fps + 1e-6)
                if interval == selected:
                    continue
                selected = interval
            yield item
        if not started and self._start is not None:
            raise VideoError(f"{self.source}: has no frame at {self._start.time:.3f} s any more")

    def _is_start(self, frame: Frame) -> bool:
        assert self._start is not None
        if self._seeking:
            return frame.position.pts == self._start.pts
        return frame.index == self._start.index

    def _all(self) -> Iterator[Frame | Damage]:
        """Every frame, numbered and timed; damage where it was met."""
        index, last, seen_until = 0, -1.0, 0.0
        if self._seeking and self._start is not None:
            index = -1  # until the frame that it is known of
        for item in self._decoded():
            if isinstance(item, str):
                yield Damage(max(last, 0.0), item)
                continue
            decoded, arrival = item
            pts = decoded.pts
            if self._origin is None:
                self._origin = pts
            at = None if pts is None or self._origin is None else float((pts - self._origin) * self._time_base)
            if at is None or at <= last:  # missing, or time would stand still
                at, pts = max(last + self._step, 0.0), None
            duration = float((decoded.duration or 0) * self._time_base) or self._step
            if index < 0 and self._start is not None and pts == self._start.pts:
                index = self._start.index
            position = Position(max(index, 0), pts, self._origin, at)
            if decoded.is_corrupt:
                yield Damage(at, "damaged data; parts of the picture are made up")
            yield Frame(
                at, max(index, 0), duration, position, arrival, decoded, self._orientation_of(decoded), self._aspect()
            )
            last, seen_until = at, at + duration
            index += index >= 0
        if last < 0 and not self._start:
            yield Damage(0.0, "not one frame can be decoded")
        elif self._cut_off():
            yield Damage(seen_until, f"the file ends here; it should last {self.duration:.3f} s")

    def _orientation_of(self, decoded: Any) -> Orientation:
        # Looking at the side data makes a cycle of references, which keeps the picture until Python cleans up.
        if decoded.rotation != self._rotation:
            self._rotation, self._orientation = decoded.rotation, _orientation(decoded)
        return self._orientation

    def _aspect(self) -> Fraction:
        """Of the pixels of the frame that was decoded last."""
        return self._stated_aspect or self._stream.codec_context.sample_aspect_ratio or Fraction(1)

    def _cut_off(self) -> bool:
        """Whether all streams end before the time that the file states."""
        if self._container.format.name not in _STATING_FORMATS or self._options.keyframes or self.duration is None:
            return False
        missing = self._packets_seen < self._stream.frames and not self._seeking  # an edit list may hide some
        return self._last_packet < self.duration - (2 * self._step if missing else _ENDS_EARLY)

    def _decoded(self) -> Iterator[tuple[Any, float] | str]:
        """PyAV's frames, each with its arrival; a reason for what cannot be read."""
        arrivals: dict[int, float] = {}
        for packet in self._packets():
            if isinstance(packet, str):
                yield packet
                continue
            now = time.monotonic()
            # An empty one would end the decoder, wherever it stands. PyAV adds one for each stream at the end of the
            # file, whose stream_index is 0 in all of them.
            if packet.size == 0 or packet.stream_index != self._stream.index:
                continue
            self._packets_seen += 1
            if self._options.keyframes and not packet.is_keyframe:
                continue
            if packet.is_corrupt:
                yield "data is missing within a frame"
                if self._container.format.name in _STATING_FORMATS:  # a frame cut off; of a broadcast, part is there
                    continue
            if packet.pts is not None and self._options.low_delay:
                arrivals[packet.pts] = now
            yield from self._decode(packet, arrivals, now)
            if len(arrivals) > 256:  # of frames that never came
                arrivals.clear()
        yield from self._decode(None, arrivals, time.monotonic())

    def _decode(self, packet: Any, arrivals: dict[int, float], now: float) -> Iterator[tuple[Any, float] | str]:
        """The frames that a packet brings or, with ``None``, those that the decoder still holds."""
        try:
            decoded = self._stream.codec_context.decode(packet)
        except (av.error.FFmpegError, MemoryError) as error:
            yield f"cannot be decoded: {reason(error)}"
            return
        for each in decoded:
            yield each, arrivals.pop(each.pts, now)

    def _packets(self) -> Iterator[Any]:
        """Packets of all streams; a reason for what cannot be read."""
        errors = 0
        while errors < _DEMUX_ERRORS:
            packets = self._container.demux()
            while True:
                complaints: list[str] = []
                try:
                    packet = self._next_packet(packets, complaints)
                except StopIteration:
                    yield from complaints
                    return
                except (av.error.FFmpegError, OSError, MemoryError) as error:
                    errors += 1
                    yield f"cannot be read: {reason(error)}"
                    if is_live(self.source):
                        return
                    break
                errors = 0
                yield from complaints
                if packet.size and packet.pts is not None and packet.time_base:
                    ends = packet.pts + (packet.duration or 0)
                    self._last_packet = max(self._last_packet, float(ends * packet.time_base))
                yield packet

    def _next_packet(self, packets: Iterator[Any], complaints: list[str]) -> Any:
        """The next packet; adds what the container's reader has to say, which skips damaged parts without an error."""
        skipping = av.logging.get_skip_repeated()
        av.logging.set_skip_repeated(False)  # another file may have the same damage
        av.logging.set_level(av.logging.ERROR)  # only here: threads that log while others wait for them can lock up
        try:
            with av.logging.Capture(local=True) as logged:
                return next(packets)
        finally:
            _log_as_before()
            av.logging.set_skip_repeated(skipping)
            name = self._container.format.name
            complaints += [f"cannot be read: {' '.join(text.split())}" for _, whose, text in logged if whose == name]


def _log_as_before() -> None:
    """Ends listening to FFmpeg's messages."""
    if _LOG_LEVEL is not None:
        av.logging.set_level(_LOG_LEVEL)
        return
    # Not set_level(None): a thread of a decoder that is just now logging would compare its level with None.
    av.logging.set_libav_level(av.logging.PANIC)
    av.logging.restore_default_callback()


def _orientation(decoded: Any) -> Orientation:
    matrix = None
    with suppress(KeyError):
        matrix = decoded.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    return Orientation.from_matrix(np.frombuffer(bytes(matrix), np.int32))
