"""Forms split by ours and by Starlette's parser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from shvit.serve.bodies import images_in
from shvit.serve.refusals import RefusedError

TYPE = 'multipart/form-data; boundary="{}"'
BOUNDARIES = st.text("abcXYZ019'()+_,-./:=?", min_size=1, max_size=40)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n\0'), min_size=1, max_size=20)
# Pieces of which some are nearly the end of a part.
CONTENTS = st.lists(
    st.sampled_from([b"\r\n", b"--", b"\r\n--", b"\r", b"-", b"\xff\xd8", b"a: b\r\n\r\n"]) | st.binary()
)
FIELDS = st.booleans()


async def _theirs(body: bytes, content_type: str) -> list[tuple[str | None, bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        for place in range(0, len(body), 7):  # boundaries are cut anywhere
            yield body[place : place + 7]

    form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
    files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
    return [(each.filename, await each.read()) for each in files]


def theirs(body: bytes, content_type: str) -> list[tuple[str | None, bytes]]:
    # In a thread: Playwright's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _theirs(body, content_type)).result()


@given(BOUNDARIES, st.lists(st.tuples(FIELDS, NAMES, CONTENTS), max_size=5), st.sampled_from([b"", b"\r\n"]))
def test_files_are_what_starlette_finds(boundary, parts, after):
    mark, written = b"--" + boundary.encode(), b""
    for is_field, name, pieces in parts:
        content = b"".join(pieces).replace(b"\r\n" + mark, b"")
        file = "" if is_field else f'; filename="{name}"'
        header = f'Content-Disposition: form-data; name="images"{file}\r\nContent-Type: image/jpeg'
        written += mark + b"\r\n" + header.encode() + b"\r\n\r\n" + content + b"\r\n"
    body, content_type = written + mark + b"--" + after, TYPE.format(boundary)
    expected = theirs(body, content_type) if parts else []
    if not expected:
        with pytest.raises(RefusedError, match="the form has no files"):
            images_in(body, "multipart/form-data", content_type, 9)
        return
    found = images_in(body, "multipart/form-data", content_type, 9)
    assert [(each.name, bytes(each.data)) for each in found] == expected
