"""Small videos, made for a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
TIME_BASE = Fraction(1, 90_000)


def plain(colour: str, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), COLOURS[colour], np.uint8)


def coloured(*stretches: tuple[str, int], size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """So many frames of each colour, such as ("red", 10), each a little different, as a camera's are."""
    noise = np.random.default_rng(0)
    return [
        np.clip(plain(colour, *size).astype(int) + noise.integers(-8, 9, (size[1], size[0], 3)), 0, 255).astype(
            np.uint8
        )
        for colour, count in stretches
        for _ in range(count)
    ]


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Red, green, blue and white, from the upper left row by row: every turn of it looks different."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (220, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 220, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 220)
    picture[height // 2 :, width // 2 :] = (220, 220, 220)
    return picture


def write_clip(
    path: Path,
    pictures: Iterable[np.ndarray],
    fps: int = 25,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    group: int = 12,
    matrix: tuple[int, ...] | None = None,
    format: str | None = None,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    colourspace: int = 2,
    stored: int | None = None,
    full_range: bool = False,
) -> Path:
    """Writes pictures ``uint8 (H, W, 3)`` as a video.

    Args:
        times: of each picture, in seconds, instead of a steady rate.
        group: frames from one key frame to the next.
        matrix: the display matrix.
        aspect: a pixel's width divided by its height.
        colourspace: what the file says of its YCbCr, as H.273 numbers it; 2 is nothing.
        stored: what it is, as libswscale numbers it; what it says, or BT.601, when not given.
        full_range: of its YCbCr, which is then also said.
    """
    with av.open(str(path), "w", format=format) as container:
        stream = None
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options or {})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixel_format
                stream.gop_size = group
                base = Fraction(1, fps) if times is None else TIME_BASE
                stream.time_base = stream.codec_context.time_base = base
                stream.codec_context.colorspace = colourspace
                stream.codec_context.color_range = 2 if full_range else 1
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if matrix is not None:
                    stream.set_display_matrix(matrix)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pixel_format.startswith("yuv"):
                frame = frame.reformat(
                    format=pixel_format,
                    dst_colorspace=stored or {2: 5, 6: 5}.get(colourspace, colourspace),
                    dst_color_range=2 if full_range else 1,
                )
            frame.pts, frame.time_base = number if times is None else round(times[number] / TIME_BASE), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
