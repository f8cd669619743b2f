from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, expect, sync_playwright

from shvit.calibration.made_pictures import made_pictures
from shvit.cli.main import main
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES

from ..conftest import PATIENCE

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
WAIT = 30_000
"""Milliseconds that anything in a browser may take on a busy machine."""

expect.set_options(timeout=WAIT)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """A folder's address, on a host that knows of files and of no headers."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture(scope="session")
def camera_film(tmp_path_factory, program) -> Path:
    """What the fake camera sees: a cup of coffee."""
    return write_film(program, SAMPLES / "coffee.jpg", tmp_path_factory.mktemp("camera") / "coffee.y4m")


def write_film(program: Callable[[str], str], picture: Path, film: Path) -> Path:
    """A film that shows one picture."""
    command = [program("ffmpeg"), "-loglevel", "error", "-loop", "1", "-i", str(picture), "-t", "0.5"]
    command += ["-r", "30", "-vf", "scale=320:240,setsar=1", "-pix_fmt", "yuv420p", str(film)]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return film


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright, program, camera_film) -> Iterator[Browser]:
    with launched(playwright, program, camera_film) as browser:
        yield browser


@contextmanager
def launched(playwright: Playwright, program: Callable[[str], str], film: Path) -> Iterator[Browser]:
    """A browser whose camera sees a film."""
    browser = playwright.chromium.launch(
        executable_path=program("/usr/bin/chromium"),
        args=[*FLAGS, f"--use-file-for-fake-video-capture={film}"],
        timeout=60_000,
    )
    yield browser
    browser.close()


def noise() -> bytes:
    """A picture of nothing, which the shipped model calls unknown, as PNG."""
    file = io.BytesIO()
    next(made_pictures("mosaics", 1)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def noisy_browser(playwright, program, tmp_path_factory) -> Iterator[Browser]:
    """One whose camera is held at nothing that is known."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "noise.png").write_bytes(noise())
    with launched(playwright, program, write_film(program, folder / "noise.png", folder / "noise.y4m")) as browser:
        yield browser


@contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Page]:
    """A new visitor's page; that a script fails on it is an error."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        assert errors == []


@pytest.fixture
def page(browser) -> Iterator[Page]:
    with visiting(browser) as page:
        yield page


@pytest.fixture(scope="session")
def site(tmp_path_factory, program) -> Path:
    """The shipped model, packed for the browser."""
    program("npm")
    folder = tmp_path_factory.mktemp("site") / "public"
    assert main(["export", "--model", DEFAULT_MODEL, "--format", "web", "--output", str(folder)]) == 0
    return folder


def problem(page: Page) -> Locator:
    """What the page says has gone wrong."""
    return page.get_by_role("alert").locator("p")


def is_ready(page: Page, where: str) -> None:
    """Waits for the model."""
    expect(page.locator("#where")).to_contain_text(where)


def labels(page: Page, source: str) -> dict[str, float]:
    """What the page says of an input, once it does."""
    expect(page.locator("#source")).to_contain_text(source)
    expect(page.locator("#labels li").first).to_be_visible()
    return dict(
        page.locator("#labels li").evaluate_all(
            "(rows) => rows.map((row) => [row.querySelector('.name').innerText, "
            "Number(row.querySelector('data').value)])"
        )
    )
