"""The exported folder in a real browser, on a host that only serves files: no server of ours has a part in it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from shvit import Classifier
from shvit.web import SAMPLES

from .conftest import is_ready, labels, noise, problem, served, visiting

JPEG_TOLERANCE = 0.03
"""Of a probability: browsers decode JPEG to other values by one or two."""
TOLERANCE = 0.005
"""Of a probability, with equal pixels: the two builds of the engine round at different places."""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def visitor(browser, site) -> Iterator[Page]:
    """Somebody who came with the first test and has stayed."""
    with served(site) as address, visiting(browser) as page:
        page.goto(address)
        is_ready(page, "in this browser, WebAssembly")
        yield page


def expected(classifier: Classifier, picture: bytes | Path) -> dict[str, float]:
    (result,) = classifier.predict(picture, top_k=200)
    return {each.short_label: each.score for each in result.predictions}


def agree(found: dict[str, float], wanted: dict[str, float], tolerance: float) -> None:
    assert next(iter(found)) == next(iter(wanted))
    assert len(found) == 5
    for label, score in found.items():
        assert score == pytest.approx(wanted[label], abs=tolerance), label


def test_a_sample(visitor, classifier):
    visitor.get_by_role("button", name="coffee").press("Enter")
    agree(labels(visitor, "coffee.jpg · "), expected(classifier, SAMPLES / "coffee.jpg"), JPEG_TOLERANCE)
    expect(visitor.get_by_role("status")).to_have_text("coffee.jpg: espresso, 98 %")


def variations() -> dict[str, bytes]:
    """One photograph in forms that are easily read differently."""
    image = Image.open(SAMPLES / "cat.jpg")
    noise = np.random.default_rng(0).integers(0, 256, image.size[::-1], np.uint8)
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(noise))
    sideways = Image.Exif()
    sideways[0x0112] = 6
    pictures = {
        "plain.png": (image, {}),
        "grey.png": (image.convert("L"), {}),
        "palette.png": (image.quantize(64), {}),
        "transparent.png": (transparent, {}),
        "profile.png": (image, {"icc_profile": _other_colours()}),
        "portrait.png": (image.resize((60, 400)), {}),
        "lossless.webp": (image, {"lossless": True}),
        "sideways.png": (image, {"exif": sideways}),
        "sideways.jpg": (image, {"exif": sideways, "quality": 95}),
    }
    files = {}
    for name, (picture, options) in pictures.items():
        file = io.BytesIO()
        picture.save(file, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[Path(name).suffix], **options)
        files[name] = file.getvalue()
    return files


def _other_colours() -> bytes:
    """A colour profile that exchanges colours, so that who follows it shows."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    return profile[:red] + b"gXYZ" + profile[red + 4 : green] + b"rXYZ" + profile[green + 4 :]


def test_pictures_in_many_forms(visitor, classifier):
    files = variations()
    visitor.locator("#file").set_input_files(
        [{"name": name, "mimeType": Image.MIME[_format(name)], "buffer": data} for name, data in files.items()]
    )
    for name, data in files.items():
        visitor.locator("#strip").get_by_role("button", name=name).click()
        tolerance = JPEG_TOLERANCE if name.endswith(".jpg") else TOLERANCE
        agree(labels(visitor, f"{name} · "), expected(classifier, data), tolerance)


def _format(name: str) -> str:
    return {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[Path(name).suffix]


def test_what_is_no_picture_is_told_and_the_next_one_is_classified(visitor):
    visitor.locator("#file").set_input_files(
        [
            {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"},
            {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": (SAMPLES / "cat.jpg").read_bytes()},
        ]
    )
    expect(problem(visitor)).to_have_text("notes.jpg: not an image, or of a format that this browser does not read")
    visitor.locator("#strip").get_by_role("button", name="cat.jpg").click()
    assert next(iter(labels(visitor, "cat.jpg · "))) == "teddy"


def test_a_picture_of_nothing_is_unknown(visitor, classifier):
    (expected,) = classifier.predict(noise())
    assert expected.decision == "unknown"
    visitor.locator("#file").set_input_files([{"name": "noise.png", "mimeType": "image/png", "buffer": noise()}])
    labels(visitor, "noise.png · ")
    expect(visitor.locator("#best")).to_have_text(expected.headline)


def test_a_camera_held_at_nothing_says_unknown(noisy_browser, site):
    with served(site) as address, visiting(noisy_browser) as page:
        page.goto(address)
        is_ready(page, "in this browser")
        page.get_by_role("button", name="Start camera").click()
        labels(page, "Camera")
        expect(page.locator("#best")).to_contain_text("unknown (nearest: ")
        page.get_by_role("button", name="Stop camera").click()


def test_the_camera(visitor, classifier):
    visitor.get_by_role("button", name="Start camera").click()
    assert next(iter(labels(visitor, "Camera"))) == next(iter(expected(classifier, SAMPLES / "coffee.jpg")))
    expect(visitor.locator("#fps")).not_to_have_text("–")
    assert float(visitor.locator("#fps").inner_text()) > 0
    assert float(visitor.locator("#latency").inner_text()) > 0
    expect(visitor.get_by_role("status")).to_contain_text("espresso")
    visitor.get_by_role("button", name="Stop camera").click()
    expect(visitor.locator("#video")).to_be_hidden()
    assert visitor.evaluate("document.getElementById('video').srcObject") is None


def test_it_works_offline_below_a_path_and_takes_a_new_version(page, site, tmp_path):
    folder = tmp_path / "pages" / "labels"
    shutil.copytree(site, folder)
    with served(tmp_path) as address:
        page.goto(f"{address}pages/labels/")
        is_ready(page, "in this browser")
        # The service worker adds the headers that threads need, after it has loaded the page once more.
        assert page.evaluate("crossOriginIsolated")
    page.reload()
    is_ready(page, "in this browser")
    page.get_by_role("button", name="coffee").click()
    assert next(iter(labels(page, "coffee.jpg · "))) == "espresso"

    kept = page.evaluate("caches.keys()")
    text = (folder / "version.js").read_text()
    (folder / "version.js").write_text(text.replace('VERSION = "', 'VERSION = "new'))
    with served_again(tmp_path, address):
        page.reload()
        expect(problem(page)).to_contain_text("A new version of this page is there")
        assert page.evaluate("caches.keys()") != kept
        page.get_by_role("button", name="Load it").click()
        is_ready(page, "in this browser")


def served_again(folder: Path, address: str):
    return served(folder, int(address.rstrip("/").rpartition(":")[2]))
