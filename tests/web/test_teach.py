"""Teaching in the page, in a real browser: the exported folder, and beside a server."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from shvit import Classifier
from shvit.data.datasets import open_dataset
from shvit.exporting import FileOptions, export_model
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES

from ..conftest import PATIENCE
from ..exporting.conftest import tiny, tiny_card  # noqa: F401
from ..serve.conftest import TOKEN, running
from .conftest import problem, served, visiting
from .test_served import CONTRASTS

COLOURS = {"red": (190, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 190)}


@pytest.fixture(scope="module")
def tiny_site(tiny, tiny_card, program, tmp_path_factory) -> Path:  # noqa: F811
    """The page with a network that takes no time."""
    program("npm")
    folder = tmp_path_factory.mktemp("site") / "public"
    export_model(tiny, folder, tiny_card, FileOptions("web", "fp32"))
    return folder


@pytest.fixture(scope="module")
def address(tiny_site) -> Iterator[str]:
    with served(tiny_site) as address:
        yield address


def picture(name: str, seed: int, size: tuple[int, int] = (80, 60)) -> bytes:
    """A JPEG of nothing but one colour, more or less."""
    noise = np.random.default_rng(seed).normal(0, 8, (*size[::-1], 3))
    file = io.BytesIO()
    Image.fromarray((noise + COLOURS[name]).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def folders(folder: Path, **counts: int) -> Path:
    """A folder of class folders."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for each in range(count):
            (folder / name / f"{each:04}.jpg").write_bytes(picture(name, 10_000 * place + each))
    return folder


def ready(page: Page) -> None:
    """Waits for the model and the project."""
    expect(page.locator("#teach")).not_to_have_attribute("inert", "")
    expect(page.locator("#teach-busy")).to_be_hidden()


@contextmanager
def teaching(browser, address: str, **options) -> Iterator[Page]:
    with visiting(browser, **options) as page:
        page.goto(f"{address}#teach")
        ready(page)
        yield page


@pytest.fixture
def visitor(browser, address) -> Iterator[Page]:
    with teaching(browser, address) as page:
        yield page


def add_folder(page: Page, folder: Path) -> None:
    """Chooses a folder, and waits until all of it is there."""
    page.locator("#teach-folders").set_input_files(folder)
    for name, count in {each.name: len(list(each.iterdir())) for each in folder.iterdir()}.items():
        card = page.locator(".class").filter(has=page.get_by_role("button", name=f"Remove class {name}", exact=True))
        expect(card.locator(".count")).to_have_text(f"{count:,} pictures", timeout=1000 * PATIENCE)
    done(page)


def done(page: Page) -> None:
    expect(page.locator("#teach-cancel")).to_be_hidden()


def add_class(page: Page, name: str) -> None:
    page.get_by_label("Name of a new class").fill(name)
    page.get_by_label("Name of a new class").press("Enter")
    expect(page.get_by_role("button", name=f"Remove class {name}")).to_be_visible()


def counts(page: Page) -> dict[str, str]:
    rows = page.locator(".class").evaluate_all(
        "(rows) => rows.map((row) => [row.querySelector('.class-name').value, row.querySelector('.count').innerText])"
    )
    return {name: count.split()[0] for name, count in rows}


def expect_pictures(page: Page, number: int) -> None:
    """So many in all classes, as soon as what comes in is counted."""
    page.wait_for_function(
        "(number) => [...document.querySelectorAll('.class .count')]"
        ".reduce((sum, each) => sum + parseInt(each.innerText), 0) === number",
        arg=number,
    )


def teach(page: Page) -> None:
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#teach-said")).to_contain_text("Of pictures like these")


def tried(page: Page, content: bytes, kind: str = "image/png") -> dict[str, float]:
    """What was taught says of a picture."""
    page.locator("#teach-tried").set_input_files([{"name": "tried", "mimeType": kind, "buffer": content}])
    expect(page.locator("#teach-best")).not_to_be_empty()
    rows = page.locator("#teach-labels li").evaluate_all(
        "(rows) => rows.map((row) => [row.querySelector('.name').innerText, Number(row.querySelector('data').value)])"
    )
    return dict(rows)


def download(page: Page, button: str, folder: Path) -> Path:
    page.locator("#teach-files-of").evaluate("(element) => (element.open = true)")
    with page.expect_download() as found:
        page.get_by_role("button", name=button).click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def test_folders_become_a_model_file_that_runs_in_python(visitor, tmp_path):
    add_folder(visitor, folders(tmp_path / "photos", red=12, green=9, blue=7))
    assert counts(visitor) == {"blue": "7", "green": "9", "red": "12"}
    teach(visitor)
    expect(visitor.locator("#teach-said")).to_contain_text("on 28 pictures held out in turn")
    lossless = io.BytesIO()
    Image.open(io.BytesIO(picture("green", 999, (300, 200)))).save(lossless, "PNG")
    found = tried(visitor, lossless.getvalue())
    assert next(iter(found)) == "green"

    path = download(visitor, "Download model", tmp_path)
    assert path.name == "mine.onnx"
    classifier = Classifier(path, threads=1)
    (result,) = classifier.predict(lossless.getvalue())
    assert {each.label: each.score for each in result.predictions} == pytest.approx(found, abs=1e-4)
    card = classifier.card
    assert card.name == "mine"
    assert (card.taught.model, card.taught.images) == ("tiny", 28)
    assert 0 < card.taught.low < card.taught.accuracy <= card.taught.high
    assert card.decision.images == 28
    assert card.decision.precision == card.verification.precision == "fp32"
    assert card.verification.top1_agreement == 1
    assert card.verification.max_difference < 1e-4
    assert card.metrics == ()


def test_a_project_is_there_after_the_page_was_loaded_again(visitor, tmp_path):
    add_folder(visitor, folders(tmp_path / "photos", red=5, blue=5))
    teach(visitor)
    said = visitor.locator("#teach-said").inner_text()
    add_class(visitor, "green")
    expect(visitor.locator("#teach-said")).to_contain_text("have changed since: teach again")
    visitor.reload()
    ready(visitor)
    assert counts(visitor) == {"blue": "5", "red": "5", "green": "0"}
    expect(visitor.locator("#teach-said")).to_contain_text(said)
    assert next(iter(tried(visitor, picture("blue", 77), "image/jpeg"))) == "blue"
    expect(visitor.locator(".thumbs canvas").first).to_have_js_property("width", 112)


def test_what_was_done_is_undone(visitor, tmp_path):
    add_folder(visitor, folders(tmp_path / "photos", red=4, blue=3))
    undo = visitor.get_by_role("button", name="Undo")
    undo.click()  # the last picture
    expect(visitor.locator(".count").last).to_have_text("3 pictures")
    visitor.get_by_role("button", name="Remove picture 2 of blue", exact=True).click()
    expect(visitor.locator(".count").first).to_have_text("2 pictures")
    visitor.get_by_role("button", name="Remove class red").click()
    expect(visitor.locator(".class")).to_have_count(1)
    blue = visitor.locator(".class-name")
    blue.fill("sky")
    blue.press("Tab")
    expect(visitor.get_by_role("button", name="Remove class sky")).to_be_visible()
    undo.click()
    expect(visitor.get_by_role("button", name="Remove class blue")).to_be_visible()
    undo.click()
    expect(visitor.locator(".class")).to_have_count(2)
    undo.click()
    expect(visitor.locator(".count").first).to_have_text("3 pictures")
    assert counts(visitor) == {"blue": "3", "red": "3"}
    visitor.get_by_role("button", name="Remove class red").click()
    expect(visitor.locator(".class")).to_have_count(1)
    visitor.reload()
    ready(visitor)
    assert counts(visitor) == {"blue": "3"}


def test_thumbnails_by_keyboard(visitor, tmp_path):
    add_folder(visitor, folders(tmp_path / "photos", red=30))
    visitor.get_by_role("button", name="Remove class red").focus()
    visitor.keyboard.press("Tab")  # to one of those in sight
    focused = visitor.locator(".thumbs button:focus")
    expect(focused).to_be_in_viewport()
    for _ in range(30):
        visitor.keyboard.press("ArrowLeft")
    expect(focused).to_have_attribute("aria-label", "Remove picture 1 of red")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        visitor.keyboard.press(key)
    expect(focused).to_have_attribute("aria-label", "Remove picture 2 of red")
    visitor.keyboard.press("Delete")
    expect(visitor.locator(".count")).to_have_text("29 pictures")
    expect(focused).to_have_attribute("aria-label", "Remove picture 2 of red")


def test_one_class_and_a_class_without_pictures_are_told(visitor, tmp_path):
    button = visitor.get_by_role("button", name="Teach", exact=True)
    add_folder(visitor, folders(tmp_path / "photos", red=3))
    button.click()
    expect(problem(visitor)).to_contain_text("Teaching needs two classes or more")
    add_class(visitor, "empty")
    button.click()
    expect(problem(visitor)).to_contain_text("There are no pictures of “empty” yet")
    visitor.get_by_label("Name of a new class").fill("red")
    visitor.get_by_label("Name of a new class").press("Enter")
    expect(problem(visitor)).to_contain_text("there is a class “red” already")
    assert counts(visitor) == {"red": "3", "empty": "0"}


def test_what_cannot_be_read_and_what_is_there_already_is_left_out(visitor, tmp_path):
    photos = folders(tmp_path / "photos", red=3, blue=2)
    (photos / "red" / "broken.jpg").write_bytes(b"no picture")
    (photos / "red" / "notes.txt").write_text("passed over")
    (photos / "blue" / "red.jpg").write_bytes((photos / "red" / "0000.jpg").read_bytes())
    visitor.locator("#teach-folders").set_input_files(photos)
    expect(problem(visitor)).to_contain_text("2 pictures were left out.")
    expect(problem(visitor)).to_contain_text("broken.jpg: not an image, or of a format that this browser does not read")
    expect(problem(visitor)).to_contain_text(re.compile("0000.jpg: is in “blue” already"))
    expect_pictures(visitor, 5)
    visitor.locator("#teach-folders").set_input_files(photos)
    expect(problem(visitor)).to_contain_text("7 pictures were left out.")
    expect(problem(visitor)).to_contain_text("is there already")
    expect(problem(visitor)).to_contain_text("and 4 more")
    expect_pictures(visitor, 5)


FULL = """
const put = IDBObjectStore.prototype.put;
IDBObjectStore.prototype.put = function (...given) {
  if (this.name === "images" && given[0].id > 9) throw new DOMException("no room", "QuotaExceededError");
  return put.apply(this, given);
};
"""


def test_storage_that_is_full_loses_nothing(browser, address, tiny_site, tmp_path):
    """A browser's storage has too many bytes to be filled in a test; it says so in the same way."""
    script = (tiny_site / "teach" / "store.js").read_text() + FULL
    with visiting(browser, service_workers="block") as page:
        page.route("**/teach/store.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
        page.goto(f"{address}#teach")
        ready(page)
        page.locator("#teach-folders").set_input_files(folders(tmp_path / "photos", red=6, blue=6))
        expect(problem(page)).to_contain_text("storage for this page is full. Nothing is lost: save the project")
        done(page)
        kept = counts(page)
        assert sum(int(each) for each in kept.values()) == 7  # two of nine are the classes
        page.reload()
        ready(page)
        assert counts(page) == kept


def test_a_project_as_a_file_goes_round(browser, address, visitor, tmp_path):
    add_folder(visitor, folders(tmp_path / "photos", red=4, blue=3))
    visitor.locator("#teach-files-of").evaluate("(element) => (element.open = true)")
    visitor.get_by_label("Name", exact=True).fill("my things")
    visitor.get_by_label("Name", exact=True).press("Tab")
    path = download(visitor, "Save project", tmp_path)
    assert path.name == "my_things.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert sorted(each.split("/")[0] for each in names) == ["blue"] * 3 + ["project.json"] + ["red"] * 4
        assert json.loads(archive.read("project.json"))["name"] == "my things"
        assert Image.open(io.BytesIO(archive.read(names[1]))).format == "JPEG"
        archive.extractall(tmp_path / "unpacked")
    images = open_dataset(tmp_path / "unpacked", "train")
    assert [each.label for each in images.classes] == ["blue", "red"]
    assert sorted(images.labels) == [0] * 3 + [1] * 4
    with teaching(browser, address) as other:
        other.locator("#project-file").set_input_files(path)
        expect(other.locator(".class")).to_have_count(2)
        done(other)
        assert counts(other) == {"blue": "3", "red": "4"}
        assert other.locator("#project-name").input_value() == "my things"
        teach(other)
        # The same again adds nothing.
        other.locator("#project-file").set_input_files(path)
        expect(problem(other)).to_contain_text("7 pictures were left out.")
        again = download(other, "Save project", tmp_path / "again")
        with zipfile.ZipFile(again) as second, zipfile.ZipFile(path) as first:
            assert {each: second.read(each) for each in second.namelist()} == {
                each: first.read(each) for each in first.namelist()
            }
        other.locator("#project-file").set_input_files(
            [{"name": "x.zip", "mimeType": "application/zip", "buffer": b"x"}]
        )
        expect(problem(other)).to_contain_text("x.zip cannot be opened: it is no ZIP archive.")


def test_folders_are_dropped(visitor):
    """Of what is dropped, entries stand for folders; a script cannot make such, so these only look like it."""
    visitor.evaluate(
        """
        ([red, blue]) => {
          const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
          const file = (name, text) => new File([bytes(text)], name, { type: "image/jpeg" });
          const entry = (each) => ({ isFile: true, name: each.name, file: (done) => done(each) });
          const folder = (name, inside) => {
            const batches = [inside, []];
            return { isFile: false, name, createReader: () => ({ readEntries: (done) => done(batches.shift()) }) };
          };
          const photos = folder("photos", [
            folder("red", red.map((text, place) => entry(file(`${place}.jpg`, text)))),
            folder("blue", [...blue.map((text) => entry(file("b.jpg", text))), entry(new File(["x"], "x.txt"))]),
            folder(".hidden", []),
          ]);
          const event = new Event("drop", { bubbles: true });
          event.dataTransfer = { types: ["Files"], items: [{ webkitGetAsEntry: () => photos }], files: [] };
          document.getElementById("teach-stage").dispatchEvent(event);
        }
        """,
        [[_text(picture("red", each)) for each in range(3)], [_text(picture("blue", each)) for each in range(2)]],
    )
    expect(visitor.locator(".class")).to_have_count(2)
    done(visitor)
    assert counts(visitor) == {"blue": "2", "red": "3"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_project_is_open_in_one_tab(visitor, address):
    other = visitor.context.new_page()
    other.goto(f"{address}#teach")
    expect(problem(other)).to_contain_text("The project is open in another tab")
    visitor.close()
    other.get_by_role("button", name="Try again").click()
    ready(other)


def test_the_camera_teaches(browser, site, tmp_path):
    """The camera sees a cup of coffee; other things come as pictures."""
    with served(site) as address, teaching(browser, address) as page:
        add_class(page, "cup")
        hold = page.get_by_role("button", name="Take pictures of cup")
        hold.focus()
        page.keyboard.down(" ")
        expect(page.locator(".count")).to_have_text(re.compile("^[6-9]|[1-9][0-9]"))
        page.keyboard.up(" ")
        done(page)
        taken = int(counts(page)["cup"])
        page.wait_for_timeout(300)
        assert int(counts(page)["cup"]) == taken  # no more than while it was held
        add_class(page, "others")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose pictures of others").click()
        chooser.value.set_files([SAMPLES / f"{each}.jpg" for each in ("rocket", "cat", "motorcycle", "astronaut")])
        expect(page.locator(".count").last).to_have_text("4 pictures")
        done(page)
        teach(page)
        expect(page.locator("#teach-best")).to_have_text("cup")  # live
        page.get_by_role("button", name="Stop camera").click()
        expect(page.locator("#teach-video")).to_be_hidden()
        assert next(iter(tried(page, (SAMPLES / "cat.jpg").read_bytes(), "image/jpeg"))) == "others"
        path = download(page, "Download model", tmp_path)
        (coffee,) = Classifier(path).predict(SAMPLES / "coffee.jpg")
        assert coffee.predictions[0].label == "cup"
        assert Classifier(path).card.decision.precision == "int8"


IN_PAGE = "(element) => [element.querySelectorAll('button').length, element.querySelectorAll('canvas').length]"


@pytest.mark.slow
def test_two_thousand_pictures(visitor, tmp_path):
    many_pictures(visitor, tmp_path, 1100)


def test_hundreds_of_pictures(visitor, tmp_path):
    many_pictures(visitor, tmp_path, 120)


def many_pictures(page: Page, folder: Path, count: int) -> None:
    """However many there are, a few are in the page, and the page's own thread decodes and embeds none."""
    page.evaluate(
        """
        () => {
          self.made = [];
          for (const name of ["createImageBitmap", "OffscreenCanvas", "FileReader"]) {
            const own = self[name];
            self[name] = name === "createImageBitmap" ? (...given) => (self.made.push(name), own(...given))
              : class extends own { constructor(...given) { super(...given); self.made.push(name); } };
          }
        }
        """
    )
    add_folder(page, folders(folder / "photos", red=count, blue=count))
    assert counts(page) == {"blue": f"{count:,}", "red": f"{count:,}"}
    for box in page.locator(".thumbs").all():
        buttons, images = box.evaluate(IN_PAGE)
        assert 0 < images == buttons <= 60
        height = box.evaluate("(element) => element.scrollHeight")
        assert height > 10 * box.evaluate("(element) => element.clientHeight") or count < 500
        box.evaluate("(element) => (element.scrollTop = element.scrollHeight / 2)")
        expect(box.locator("canvas").first).to_have_js_property("width", 112)
        assert box.evaluate(IN_PAGE)[0] <= 60
    teach(page)
    assert page.evaluate("self.made") == []


def test_taking_in_is_cancelled(visitor, tmp_path):
    visitor.locator("#teach-folders").set_input_files(folders(tmp_path / "photos", red=300, blue=300))
    visitor.get_by_role("button", name="Cancel").click()
    done(visitor)
    taken = sum(int(each) for each in counts(visitor).values())
    assert taken < 600
    visitor.reload()
    ready(visitor)
    assert sum(int(each) for each in counts(visitor).values()) == taken


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone(browser, address, tmp_path, scheme):
    with teaching(browser, address, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        add_folder(page, folders(tmp_path / "photos", red=9, blue=9))
        teach(page)
        page.locator("#teach-files-of").evaluate("(element) => (element.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(CONTRASTS) == []
        nameless = page.locator("button, input").evaluate_all(
            "(all) => all.filter((each) => each.checkVisibility() && !each.ariaLabel && !each.innerText && "
            "!each.labels?.length && !each.querySelector('img')).map((each) => each.outerHTML)"
        )
        assert nameless == []


# ---- beside a server -------------------------------------------------------------------------------------------------


def test_a_server_says_how_it_is_made_to_teach(browser):
    with running() as server, visiting(browser) as page:
        page.goto(f"{server.url}/#teach")
        expect(problem(page)).to_contain_text("Start it so: shvit serve --teach")


def test_beside_a_server_pictures_stay_and_another_model_takes_them_anew(
    browser, program, tiny_site, colour_model, tmp_path
):
    program("npm")
    models = ("--model", DEFAULT_MODEL, "--model", f"tiny={tiny_site / 'model.onnx'}", "--model", colour_model)
    with running("--teach", *models, environment={"SHVIT_TOKEN": TOKEN}) as server, visiting(browser) as page:
        sent = []
        page.on("request", lambda request: sent.append((request.method, request.url)))
        page.goto(f"{server.url}/#teach")
        expect(problem(page)).to_contain_text("The server asks for a token.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        ready(page)
        add_folder(page, folders(tmp_path / "photos", red=6, blue=6))
        teach(page)
        assert next(iter(tried(page, picture("red", 5), "image/jpeg"))) == "red"
        files = [url for _, url in sent if url.endswith("/file")]
        assert len(files) == 1  # fetched once
        assert {method for method, _ in sent} == {"GET"}  # nothing was sent
        page.get_by_label("Model", exact=True).select_option("tiny")
        expect(page.locator("#teach-said")).to_be_empty()  # nothing is taught on this one's features
        done(page)
        assert counts(page) == {"blue": "6", "red": "6"}
        teach(page)
        path = download(page, "Download model", tmp_path)
        assert Classifier(path).card.taught.model == "tiny"
        page.get_by_label("Model", exact=True).select_option("colours")
        expect(problem(page)).to_contain_text("this model file has no head of shvit's, and nothing can be taught on it")
        page.get_by_label("Model", exact=True).select_option("tiny")
        expect(page.locator("#teach-said")).to_contain_text("Of pictures like these")
        assert counts(page) == {"blue": "6", "red": "6"}
