"""Decoding in threads, one batch ahead: order, errors, memory, and that nothing is left running."""

from __future__ import annotations

import io
import threading
import tracemalloc
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shvit import Classifier
from shvit.errors import ImageError
from shvit.images.preprocess import ImageSource, decode, warnings_ignored
from shvit.predicting.pipeline import PrepareImage, decoded_batches

from ..conftest import PATIENCE, SAMPLES

SHAPE = (2, 2, 3)


def prepare(source: ImageSource) -> np.ndarray:
    """A number to a picture of it; odd multiples of 7 are broken."""
    value = int(source)
    if value % 14 == 7:
        raise ImageError(f"{source}: broken")
    return np.full(SHAPE, value % 256, np.uint8)


def counting() -> tuple[threading.Semaphore, PrepareImage]:
    """``prepare``, and what counts up each time that it is called."""
    decoded = threading.Semaphore(0)

    def counted(source: ImageSource) -> np.ndarray:
        try:
            return prepare(source)
        finally:
            decoded.release()

    return decoded, counted


def decode_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("shvit-decode")]


@settings(max_examples=60)
@given(count=st.integers(0, 70), batch_size=st.integers(1, 20), workers=st.integers(1, 5))
def test_order_and_errors_are_kept(count, batch_size, workers):
    seen, failed = [], {}
    for batch in decoded_batches(map(str, range(count)), prepare, SHAPE, batch_size, workers):
        good = [source for place, source in enumerate(batch.sources) if place not in batch.errors]
        assert [str(each) for each in batch.pixels[:, 0, 0, 0]] == good
        failed |= {batch.sources[place]: reason for place, reason in batch.errors.items()}
        seen += batch.sources
    assert seen == [str(number) for number in range(count)]
    assert failed == {str(number): "broken" for number in range(count) if number % 14 == 7}
    assert not decode_threads()


def test_a_batch_stays_as_it_is_while_the_next_is_decoded():
    decoded, counted = counting()
    batches = decoded_batches(map(str, range(8, 14)), counted, SHAPE, 2, 2)
    for batch, others in zip(batches, (4, 2, 0), strict=True):
        before = batch.pixels.copy()
        for _ in range(others):
            assert decoded.acquire(timeout=PATIENCE)
        assert np.array_equal(batch.pixels, before)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_early_leaves_no_thread(taken):
    batches = decoded_batches(map(str, range(1000)), prepare, SHAPE, 4, 3)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert not decode_threads()


def test_the_next_batch_is_decoded_while_the_caller_has_this_one():
    decoded, counted = counting()
    batches = decoded_batches(map(str, range(8, 14)), counted, SHAPE, 2, 2)
    next(batches)
    for _ in range(4):
        assert decoded.acquire(timeout=PATIENCE)
    batches.close()  # which waits for the threads
    assert not decoded.acquire(blocking=False)


def test_no_more_is_taken_than_one_batch_ahead():
    taken = 0

    def numbers() -> Iterator[str]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield str(number)

    batches = decoded_batches(numbers(), prepare, SHAPE, 5, 2)
    for done in range(1, 6):
        next(batches)
        assert taken == 5 * (done + 1)
    batches.close()


def test_a_live_source_is_not_kept_waiting():
    asked: list[int] = []

    def frames() -> Iterator[str]:
        for number in range(3):
            asked.append(number)
            yield str(number)

    batches = decoded_batches(frames(), prepare, SHAPE, 1, 4)
    assert next(batches).sources == ["0"]
    assert asked == [0]


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_does_not_grow_with_the_number_of_images(workers):
    shape = (64, 64, 3)
    picture = np.zeros(shape, np.uint8)

    def peak(count: int) -> int:
        tracemalloc.start()
        for batch in decoded_batches(("x" for _ in range(count)), lambda source: picture, shape, 8, workers):
            assert len(batch.pixels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(8)
    assert peak(4000) < peak(80) + 200_000


def test_what_the_source_raises_comes_after_the_batches_before_it():
    def numbers() -> Iterator[str]:
        yield from map(str, range(8, 12))
        raise RuntimeError("the camera is gone")

    seen = []
    with pytest.raises(RuntimeError, match="the camera is gone"):
        for batch in decoded_batches(numbers(), prepare, SHAPE, 2, 2):
            seen += batch.sources
    assert seen == ["8", "9", "10", "11"]
    assert not decode_threads()


def test_an_error_that_is_not_the_images_is_raised():
    def mistaken(source: ImageSource) -> np.ndarray:
        raise ZeroDivisionError

    for workers in (1, 2):
        with pytest.raises(ZeroDivisionError):
            list(decoded_batches(["1", "2"], mistaken, SHAPE, 2, workers))
    assert not decode_threads()


def test_a_stream_in_threads_gives_what_one_thread_gives():
    sources = [*sorted(SAMPLES.glob("*.jpg")), b"no image", *sorted(SAMPLES.glob("*.jpg"))[:1]] * 4
    one = list(Classifier(threads=1).stream(sources, batch_size=5))
    several = list(Classifier(threads=3).stream(sources, batch_size=5))
    assert [each.source for each in several] == [each.source for each in one]
    assert [each.error for each in several] == [each.error for each in one]
    for mine, other in zip(one, several, strict=True):
        assert [each.score for each in mine.predictions] == pytest.approx(
            [e.score for e in other.predictions], abs=1e-3
        )


def test_a_stream_that_is_dropped_leaves_no_thread():
    stream = Classifier(threads=3).stream(sorted(SAMPLES.glob("*.jpg")) * 10, batch_size=4)
    assert next(stream).error is None
    assert decode_threads()
    stream.close()
    assert not decode_threads()


def test_the_callers_warnings_are_as_before_after_decoding_in_threads():
    before = list(warnings.filters)
    for _ in Classifier(threads=4).stream(sorted(SAMPLES.glob("*.jpg")) * 20, batch_size=8):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning):
                warnings.warn("the caller's own", stacklevel=1)
    assert warnings.filters == before


def test_remarks_that_pillow_attributes_to_its_caller_are_not_shown_either():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with warnings_ignored:
            warnings.warn_explicit("of a picture", UserWarning, "preprocess.py", 1, module=decode.__module__)
        with pytest.raises(UserWarning):
            warnings.warn_explicit("of a picture", UserWarning, "preprocess.py", 2, module=decode.__module__)


def test_pillows_remarks_are_not_shown_even_as_errors(monkeypatch):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # of twice as many on, it is an error and no remark
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(data.getvalue()))
        assert decode(data.getvalue()).size == (8, 8)
