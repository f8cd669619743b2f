"""Greyscale of more than 8 bits, such as TIFF holds, to 8: scaled by the values that are part of the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from shvit.errors import ImageError

GDAL_NO_DATA = 42113
"""The TIFF tag with the value, as text, that stands for "nothing was measured here"."""

_FILLS = (
    *(-999, -9999, -99999, -999999, -32767, -32768, -(2**31)),
    *(9999, 99999, 999999, 32767, 65535, 2**31 - 1),
)
"""Values that stand for no data where nothing says so, if they lie apart from all others; so do those from 10²⁰ on."""

_HUGE = 1e20

_FAR = 32
"""A gap of so many times the range of the values before it ends the picture: with what lies beyond, that range would
have 8 of 256 levels."""

_FEW_VALUES = 32
"""With fewer different values there is no telling which are the picture."""

_FEW_LEVELS = 64
"""A picture in more levels of 256 than this is not looked at for values that lie far away."""

_PIXELS_AT_ONCE = 2**20
"""So many are scaled at once, in float64."""


def no_data_value(image: Image.Image) -> float | None:
    """The value that a TIFF names as no data."""
    text = getattr(image, "tag_v2", {}).get(GDAL_NO_DATA)
    try:
        return None if text is None else float(str(text)[:64].strip("\\0 "))
    except ValueError:
        return None


def scaled_to_eight_bits(image: Image.Image, name: str, no_data: float | None = None) -> Image.Image:
    """16-bit by 1/257, 32-bit integers of 16-bit values too, of 8-bit values not at all, others from their own range.

    Not part of it are NaN, infinities, ``no_data``, values that often stand for no data and lie apart from the others,
    and single ones so far away that they would leave the others a few levels only. They become black, or white where
    they are above the range. A picture that has none of these is scaled from its least to its greatest value.

    Args:
        image: of one channel, mode ``I``, ``I;16`` or ``F``.
        name: what messages call it.
        no_data: a value that is no part of the picture.

    Returns:
        RGB, of the same size.

    Raises:
        ImageError: no value is part of the picture.
    """
    values = np.asarray(image)
    inside = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if no_data is not None:
        with np.errstate(over="ignore"):  # float64's least is float32's infinity
            inside &= values != (np.float32(no_data) if values.dtype.kind == "f" else no_data)
    if not inside.any():
        raise ImageError(f"{name}: none of its values can be shown; all are infinite, not a number (NaN) or no data")
    missing = ~inside & ~(values == np.inf) if values.dtype.kind == "f" else ~inside
    low, high = _range(values, inside)
    if not image.mode.startswith("I;16"):
        low, high = _without_fills(values, inside, low, high)
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high < 65536):
        scaled = _scale(values, missing, 0, 65535, 1 / 257)
    elif image.mode == "I" and low >= 0 and high <= 255:
        scaled = _scale(values, missing, 0, 255, 1)
    else:
        scaled = _scale(values, missing, low, high)
        if np.count_nonzero(np.bincount(scaled.ravel())) <= _FEW_LEVELS:
            near_low, near_high = _without_far_ones(values[inside & (values >= low) & (values <= high)])
            near = inside & (values >= near_low) & (values <= near_high)
            nearer = _without_fills(values, near, near_low, near_high)
            if nearer != (low, high):
                scaled = _scale(values, missing, *nearer)
    return Image.fromarray(scaled).convert("RGB")


def _range(values: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    seen = values[inside]
    return float(seen.min()), float(seen.max())


def _without_fills(values: np.ndarray, inside: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The range without those of ``_FILLS`` at its ends that are apart by half of the range of the others, or more."""
    while _is_fill(low) or _is_fill(high):
        others = inside & ~_equal(values, low, high)
        if not others.any():
            break
        inner_low, inner_high = _range(values, others)
        # A fill at one end only: the other end is a value like all others.
        inner_low, inner_high = inner_low if _is_fill(low) else low, inner_high if _is_fill(high) else high
        apart = (inner_high - inner_low) / 2
        if apart <= 0:
            break
        found = (
            inner_low if _is_fill(low) and inner_low - low > apart else low,
            inner_high if _is_fill(high) and high - inner_high > apart else high,
        )
        if found == (low, high):
            break
        low, high = found
        inside = inside & (values >= low) & (values <= high)
    return low, high


def _is_fill(value: float) -> bool:
    return value in _FILLS or abs(value) >= _HUGE


def _equal(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where the fills among the two are."""
    found = np.zeros(values.shape, bool)
    for each in (low, high):
        if _is_fill(each):
            found |= values == each
    return found


def _without_far_ones(values: np.ndarray) -> tuple[float, float]:
    """The range that is left without values beyond a gap of ``_FAR`` times the range of those before it.

    It grows from the middle half of the different values, so that it does not matter how many pixels are far away.
    """
    different = np.unique(values).astype(np.float64)
    low, high = float(different[0]), float(different[-1])
    if len(different) < _FEW_VALUES:
        return low, high
    first, last = len(different) // 4, len(different) - 1 - len(different) // 4
    gaps = np.diff(different)
    above = np.flatnonzero(gaps[last:] > _FAR * (different[last:-1] - different[first]))
    below = np.flatnonzero(gaps[:first] > _FAR * (different[last] - different[1 : first + 1]))
    return (
        float(different[below[-1] + 1]) if len(below) else low,
        float(different[last + above[0]]) if len(above) else high,
    )


def _scale(values: np.ndarray, missing: np.ndarray, low: float, high: float, factor: float | None = None) -> np.ndarray:
    """``uint8``: ``low`` and what is below or missing becomes 0, ``high`` and above 255 if there is no ``factor``."""
    if factor is None:
        factor = 255 / (high - low) if high > low else 0
    scaled = np.zeros(values.shape, np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        part[missing[start : start + rows]] = low
        scaled[start : start + rows] = np.rint((np.clip(part, low, high) - low) * factor)
    return scaled
