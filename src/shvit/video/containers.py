"""Opening videos: which formats and protocols libav may use for a file, and which for a stream.

A container can name other files or addresses (playlists, patterns, session descriptions). So what a source turns out to
be is held against a list of what may be read, before anything in it is followed.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from shvit.errors import MissingDependencyError, VideoError
from shvit.install import install_command

try:
    import av
    import av.logging
    from av.stream import Disposition
except ImportError as error:
    raise MissingDependencyError(
        f"reading video needs PyAV, which is not installed; install it with: {install_command('video')}"
    ) from error

FILE_FORMATS = (
    *("mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegvideo", "mpegts", "ogg", "rm", "mxf", "nut", "dv", "gif"),
    *("ivf", "yuv4mpegpipe", "h264", "hevc", "m4v", "mjpeg", "obu", "vvc"),
)
"""libav's names of the formats that files are read in: those of ``sources.VIDEO_EXTENSIONS`` and raw streams. None of
them has a reader that opens a second file; libav can follow a MOV file's references to others, but does not unless it
is told to."""

_SOUND_FORMATS = ("wav", "mp3", "aac", "flac")
"""Read only to say that there is nothing but sound in them."""

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "http", "https", "srt", "udp", "tcp", "rtp")
"""How addresses of streams begin."""

STREAM_FORMATS = (*FILE_FORMATS, "rtsp", "rtp", "hls", "dash", "live_flv", "mpjpeg", "ac3", "eac3", "webvtt")
"""libav's names of the formats that streams are read in; HLS and DASH name parts of theirs by address."""

_STREAM_PROTOCOLS = (
    *("rtsp", "rtmp", "rtmps", "rtmpt", "ffrtmphttp", "http", "https", "httpproxy", "tls", "crypto", "data"),
    *("srt", "udp", "tcp", "rtp", "srtp"),
)
"""What an address, or what is found there, may be fetched by: nothing that reads this machine's files."""

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Marks of streams that are no moving pictures."""


def is_live(source: str | Path) -> bool:
    """Whether a source is a network stream or a camera, not a file."""
    return re.match(r"[a-z][a-z0-9+.-]+://|/dev/video", str(source)) is not None


def check_source(source: str) -> None:
    """Whether a source is one to open.

    Raises:
        VideoError: there is no such file, it is not a regular one, or the address is of a kind that is not read.
    """
    if source.startswith("/dev/video"):
        return
    if is_live(source):
        scheme = source.partition("://")[0]
        if scheme not in STREAM_SCHEMES:
            raise VideoError(
                f"{source}: {scheme}:// is not read; expected a file's path, or a stream at {':// '.join(STREAM_SCHEMES)}://"
            )
        return
    try:
        mode = os.stat(source).st_mode  # noqa: PTH116 - a path that cannot be is told the same way
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or "No such file or directory"
        if re.fullmatch(r"\d{1,3}", source):
            text = f"{text}; a camera is named by its device: /dev/video{source}"
        raise VideoError(f"{source}: {text}") from None
    if stat.S_ISDIR(mode):
        raise VideoError(f"{source}: is a folder")
    if not stat.S_ISREG(mode):
        raise VideoError(f"{source}: is a pipe, a socket or a device; expected a regular file")


def open_container(source: str, low_delay: bool, timeout: float) -> Any:
    """PyAV's container of a file, a stream or a camera.

    Args:
        low_delay: keep nothing back of a live source.
        timeout: seconds that a live source may be silent.

    Raises:
        VideoError: it cannot be opened, or is not one of the formats that are read.
    """
    check_source(source)
    live, camera = is_live(source), source.startswith("/dev/video")
    options: dict[str, str] = {}
    if live and low_delay:
        # What is read while the stream is being recognised is dropped, not kept for later; so look at it briefly.
        options |= {"fflags": "nobuffer", "analyzeduration": "1000000"}
    if source.startswith(("rtsp://", "rtsps://")):
        options["rtsp_transport"] = "tcp"  # what is lost of UDP is seen as damage
    if not camera:
        options["format_whitelist"] = ",".join(STREAM_FORMATS if live else (*FILE_FORMATS, *_SOUND_FORMATS))
        options["protocol_whitelist"] = ",".join(_STREAM_PROTOCOLS) if live else "file"
    try:
        return av.open(
            source if live else f"file:{source}",
            format="v4l2" if camera else None,
            options=options,
            metadata_errors="replace",
            timeout=timeout if live else None,
        )
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        text = reason(error)
        if isinstance(error, av.error.InvalidDataError):
            text = "not a video, or its beginning or index is damaged or missing"
        elif isinstance(error, av.error.ArgumentError) and not camera:
            text = "not a video of a format that is read (docs/video.md lists them), or damaged"
        raise VideoError(f"{source}: {text}") from None


def picture_stream(container: Any, source: str) -> Any:
    """The first stream of moving pictures; not a cover, be it marked as one or one picture beside others that move.

    Raises:
        VideoError: there is none.
    """
    streams = [each for each in container.streams.video if not each.disposition & _STILLS]
    if not streams:
        audio = "only audio" if container.streams.audio else "no pictures"
        cover = " and a cover" if container.streams.video else ""
        raise VideoError(f"{source}: no video in it, {audio}{cover}")
    known = [each for each in streams if each.codec_context is not None]
    if not known:
        raise VideoError(f"{source}: its pictures are of a codec that this libav cannot decode")
    return next((each for each in known if each.frames != 1), known[0])


def reason(error: Exception) -> str:
    """What libav or the system says, in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
