"""Teaching in the page, in Chromium: how long from Teach pressed to live labels, and whether the page answers.

The camera is a film of five photographs, each moved about for some seconds; pictures are taken by holding a class's
button while its photograph is shown. Then a folder of many pictures is taken in. A timer of ten milliseconds runs in
the page all the while: by how much it is late is how long somebody who presses a button waits.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from common import record, summary
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES
from shvit.web.onnxruntime_web import VERSION
from shvit.web.site import write_site
from web import FLAGS, served

THINGS = ("coffee", "rocket", "motorcycle", "cat", "astronaut")
SCENE = 14
"""Seconds that each is shown."""
PATIENCE = 600_000
PROBE = """
() => {
  self.probe = { late: 0, tasks: [] };
  let due = performance.now() + 10;
  setInterval(() => {
    const now = performance.now();
    self.probe.late = Math.max(self.probe.late, now - due);
    due = now + 10;
  }, 10);
  new PerformanceObserver((list) => self.probe.tasks.push(...list.getEntries().map((each) => each.duration)))
    .observe({ type: "longtask" });
}
"""
READ = """
() => {
  const { late, tasks } = self.probe;
  Object.assign(self.probe, { late: 0, tasks: [] });
  const above = tasks.filter((each) => each > 100).length;
  return { timer_late_ms: late, longest_task_ms: Math.max(0, ...tasks), tasks_above_100_ms: above };
}
"""
TEACH = """
() => new Promise((done) => {
  const best = document.getElementById("teach-best");
  const pressed = performance.now();
  let taught = null;
  const watched = new MutationObserver(() => {
    if (document.getElementById("teach-said").textContent) taught ??= performance.now() - pressed;
    if (taught === null || !best.textContent) return;
    watched.disconnect();
    done({ taught_s: taught / 1000, live_s: (performance.now() - pressed) / 1000, label: best.textContent });
  });
  watched.observe(document.getElementById("teach"), { subtree: true, childList: true, characterData: true });
  document.getElementById("teach-go").click();
})
"""


def write_film(film: Path) -> None:
    """The five things, one after the other, each moving about."""
    size = "scale=800:600:force_original_aspect_ratio=increase,crop=800:600"
    move = "x='(iw-ow)/2*(1+sin(2.1*t))':y='(ih-oh)/2*(1+cos(1.3*t))'"
    inputs: list[str] = []
    for name in THINGS:
        inputs += ["-loop", "1", "-t", str(SCENE), "-r", "10", "-i", str(SAMPLES / f"{name}.jpg")]
    each = "".join(f"[{place}:v]{size},crop=640:480:{move},setsar=1[v{place}];" for place in range(len(THINGS)))
    joined = "".join(f"[v{place}]" for place in range(len(THINGS))) + f"concat=n={len(THINGS)}[out]"
    command = ["ffmpeg", "-loglevel", "error", *inputs, "-filter_complex", each + joined, "-map", "[out]", "-r", "10"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(film)], check=True)


def write_pictures(folder: Path, count: int) -> Path:
    """Five class folders of photographs' parts, 320×240."""
    random = np.random.default_rng(0)
    for name in THINGS:
        (folder / name).mkdir(parents=True)
        with Image.open(SAMPLES / f"{name}.jpg") as photograph:
            image = photograph.convert("RGB").resize((480, 360))
        for each in range(count // len(THINGS)):
            left, top = random.integers(0, 160), random.integers(0, 120)
            part = np.asarray(image.crop((left, top, left + 320, top + 240))).astype(np.int16) + random.integers(-9, 10)
            Image.fromarray(part.clip(0, 255).astype(np.uint8)).save(folder / name / f"{each:05}.jpg", quality=85)
    return folder


def take(page: Page, count: int) -> float:
    """Holds each class's button while its thing is shown; the seconds that buttons were held."""
    for name in THINGS:
        page.get_by_label("Name of a new class").fill(name)
        page.get_by_label("Name of a new class").press("Enter")
        expect(page.get_by_role("button", name=f"Remove class {name}")).to_be_visible()
    page.get_by_role("button", name="Start camera").click()
    counts = "(all) => all.map((each) => parseInt(each.innerText.replace(',', '')))"
    where = "(video) => video.currentTime"
    held = 0.0
    while min(taken := page.locator(".count").evaluate_all(counts)) < count:
        into, place = divmod(page.locator("#teach-video").evaluate(where), SCENE)
        thing = int(into) % len(THINGS)
        if taken[thing] >= count or not 1 < place < SCENE - 2:
            page.wait_for_timeout(50)
            continue
        button = page.get_by_role("button", name=f"Take pictures of {THINGS[thing]}")
        button.focus()
        began = time.monotonic()
        page.keyboard.down(" ")
        while time.monotonic() - began < SCENE - 1 - place:
            if page.locator(".count").evaluate_all(counts)[thing] >= count:
                break
            page.wait_for_timeout(20)
        page.keyboard.up(" ")
        held += time.monotonic() - began
    expect(page.locator("#teach-cancel")).to_be_hidden(timeout=PATIENCE)
    return held


def draw(page: Page, address: str, each: int, picture: Path) -> None:
    """A picture of the page, with something taught."""
    page.set_default_timeout(PATIENCE)
    page.set_viewport_size({"width": 1100, "height": 1640})
    page.goto(f"{address}#teach")
    expect(page.locator("#teach")).not_to_have_attribute("inert", "", timeout=PATIENCE)
    take(page, each)
    page.evaluate(TEACH)
    page.mouse.click(1, 1)  # nothing has the focus
    page.wait_for_timeout(3000)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(256).save(picture, optimize=True)


def visit(page: Page, address: str, args: argparse.Namespace, pictures: Path) -> dict[str, Any]:
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}#teach")
    expect(page.locator("#teach")).not_to_have_attribute("inert", "", timeout=PATIENCE)
    page.evaluate(PROBE)
    page.evaluate(READ)
    page.wait_for_timeout(5000)
    found: dict[str, Any] = {"idle": page.evaluate(READ)}  # what the machine itself holds up
    held = take(page, args.each)
    found["taking"] = {"held_s": held, **page.evaluate(READ)}
    taught = page.evaluate(TEACH)
    found["teaching"] = {**taught, **page.evaluate(READ)}
    page.wait_for_timeout(5000)
    found["live"] = {"said": page.locator("#teach-said").inner_text(), **page.evaluate(READ)}
    page.get_by_role("button", name="Stop camera").click()
    began = time.monotonic()
    page.locator("#teach-folders").set_input_files(pictures)
    expect(page.locator("#teach-cancel")).to_be_visible(timeout=PATIENCE)
    page.evaluate(READ)  # without what the browser itself does to hand over the list
    expect(page.locator("#teach-cancel")).to_be_hidden(timeout=PATIENCE)
    found["folder"] = {"seconds": time.monotonic() - began, **page.evaluate(READ)}
    buttons = page.locator(".thumbs button").count()
    return {**found, "thumbnails_in_page": buttons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--each", type=int, default=100, help="camera pictures of each of the five classes")
    parser.add_argument("--pictures", type=int, default=5000, help="of the folder that is taken in afterwards")
    parser.add_argument("--picture", type=Path, help="only make a picture of the page, here")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    visits = []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        write_film(folder / "things.y4m")
        pictures = write_pictures(folder / "pictures", args.pictures)
        write_site(DEFAULT_MODEL, folder / "site")
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={folder / 'things.y4m'}"]
        for _ in range(args.runs):
            browser = playwright.chromium.launch(executable_path=args.chromium, args=flags)
            with served(folder / "site") as address, browser.new_context() as context:
                page = context.new_page()
                if args.picture:
                    return draw(page, address, args.each, args.picture)
                visits.append(visit(page, address, args, pictures))
            chromium = browser.version
            browser.close()
    phases = {
        phase: {
            key: summary([each[phase][key] for each in visits])
            for key, value in visits[0][phase].items()
            if not isinstance(value, str)
        }
        for phase in ("idle", "taking", "teaching", "live", "folder")
    }
    about = {"chromium": chromium, "onnxruntime_web": VERSION, "model": DEFAULT_MODEL, "classes": len(THINGS)}
    counts = {"camera_pictures_of_each": args.each, "pictures_in_folder": args.pictures}
    said = {"said": visits[0]["live"]["said"], "thumbnails_in_page": visits[0]["thumbnails_in_page"]}
    command = f"python benchmarks/teach_page.py --runs {args.runs} --each {args.each} --pictures {args.pictures}"
    record("teach_page", command, {**about, **counts, **phases, **said})


if __name__ == "__main__":
    main()
