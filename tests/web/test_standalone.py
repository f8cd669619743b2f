"""The exported folder in a real browser, on a host that only serves files: no server of ours has a part in it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from shvit import Classifier
from shvit.web import SAMPLES

from .conftest import WAIT, is_ready, labels, served

JPEG_TOLERANCE = 0.03
"""Of a probability: browsers decode JPEG to other values by one or two."""
TOLERANCE = 0.005
"""Of a probability, with equal pixels: the two builds of the engine round at different places."""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


def expected(classifier: Classifier, picture: bytes | Path) -> dict[str, float]:
    (result,) = classifier.predict(picture, top_k=200)
    return {each.label: each.score for each in result.predictions}


def agree(found: dict[str, float], wanted: dict[str, float], tolerance: float) -> None:
    assert next(iter(found)) == next(iter(wanted))
    assert len(found) == 5
    for label, score in found.items():
        assert score == pytest.approx(wanted[label], abs=tolerance), label


def test_a_sample(page, address, classifier):
    page.goto(address)
    is_ready(page, "in this browser, WebAssembly")
    page.get_by_role("button", name="coffee").press("Enter")
    agree(labels(page, "coffee.jpg · "), expected(classifier, SAMPLES / "coffee.jpg"), JPEG_TOLERANCE)
    expect(page.get_by_role("status")).to_have_text("coffee.jpg: espresso, 98 %")


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


def test_pictures_in_many_forms(page, address, classifier):
    page.goto(address)
    is_ready(page, "in this browser")
    files = variations()
    page.locator("#file").set_input_files(
        [{"name": name, "mimeType": Image.MIME[_format(name)], "buffer": data} for name, data in files.items()]
    )
    for name, data in files.items():
        page.locator("#strip").get_by_role("button", name=name).click()
        tolerance = JPEG_TOLERANCE if name.endswith(".jpg") else TOLERANCE
        agree(labels(page, f"{name} · "), expected(classifier, data), tolerance)


def _format(name: str) -> str:
    return {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[Path(name).suffix]


def test_what_is_no_picture_is_told_and_the_next_one_is_classified(page, address):
    page.goto(address)
    page.locator("#file").set_input_files(
        [
            {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"},
            {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": (SAMPLES / "cat.jpg").read_bytes()},
        ]
    )
    is_ready(page, "in this browser")
    expect(page.get_by_role("alert")).to_have_text(
        "notes.jpg: not an image, or of a format that this browser does not read", timeout=WAIT
    )
    page.locator("#strip").get_by_role("button", name="cat.jpg").click()
    assert next(iter(labels(page, "cat.jpg · "))) == "tabby, tabby cat"


def test_the_camera(page, address, classifier):
    page.goto(address)
    is_ready(page, "in this browser")
    page.get_by_role("button", name="Start camera").click()
    assert next(iter(labels(page, "Camera"))) == next(iter(expected(classifier, SAMPLES / "coffee.jpg")))
    expect(page.locator("#fps")).not_to_have_text("–", timeout=WAIT)
    assert float(page.locator("#fps").inner_text()) > 0
    assert float(page.locator("#latency").inner_text()) > 0
    expect(page.get_by_role("status")).to_contain_text("espresso", timeout=WAIT)
    page.get_by_role("button", name="Stop camera").click()
    expect(page.locator("#video")).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_a_camera_that_may_not_be_used(browser, address):
    # Headless Chromium grants what the flags grant; the browser's own refusal is given in their place.
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    with browser.new_context() as context:
        context.add_init_script(refuse)
        page = context.new_page()
        page.goto(address)
        page.get_by_role("button", name="Start camera").click()
        expect(page.get_by_role("alert")).to_contain_text("The camera may not be used: allow it")
        expect(page.get_by_role("button", name="Start camera")).to_be_visible()


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
        expect(page.get_by_role("alert")).to_contain_text("A new version of this page is ready", timeout=WAIT)
        assert page.evaluate("caches.keys()") != kept
        page.get_by_role("button", name="Try again").click()
        is_ready(page, "in this browser")


def served_again(folder: Path, address: str):
    return served(folder, int(address.rstrip("/").rpartition(":")[2]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone(browser, address, scheme):
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address)
        is_ready(page, "in this browser")
        page.get_by_role("button", name="coffee").click()
        labels(page, "coffee.jpg · ")
        page.get_by_text("About this model").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        poor = page.evaluate(CONTRASTS)
        assert poor == []


CONTRASTS = """
() => {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => channel(each / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
  };
  const texts = [...document.querySelectorAll("body *")].filter(
    (each) => each.checkVisibility() && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
  );
  return texts.flatMap((each) => {
    const [low, high] = [getComputedStyle(each).color, ground(each)].map(luminance).sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    return ratio < 4.5 ? [`${each.tagName} ${each.id} ${each.textContent.trim()} ${ratio}`] : [];
  });
}
"""


def test_everything_is_reached_and_named_by_keyboard(page: Page, address):
    page.goto(address)
    is_ready(page, "in this browser")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.innerText || "
                "document.activeElement.querySelector('img')?.alt || ''"
            ).split("\n")[0]
        )
    assert names[:10] == [
        "Skip to the labels",
        "Dark colours",
        "Drop pictures here",
        "Choose…",
        "Start camera",
        "cat",
        "coffee",
        "motorcycle",
        "rocket",
        "astronaut",
    ]
    assert "About this model" in names
    page.get_by_role("button", name="Dark colours").press("Space")
    expect(page.get_by_role("button", name="Dark colours")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 21)"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
