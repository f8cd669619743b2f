"""The exported page in Chromium: frames a second of a fake camera, and where the time goes, by model and threads.

Each setting has a visit of its own, in turns. ``camera`` is what the page itself shows, of a film of 60 frames a
second; the phases are of frames given to the worker one after the other, whether the film has a new one or not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from common import record, summary
from shvit.bench.networks import open_network, write_model_file
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES
from shvit.web.onnxruntime_web import VERSION
from shvit.web.site import write_site

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "weights/shvit_s1_tiny_imagenet.safetensors"
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
FRAMES = """
async ([threads, count]) => {
  const { choosePredictor } = await import("./predictor.js");
  const config = await (await fetch("config.json")).json();
  const predictor = choosePredictor(config, new URLSearchParams({ threads }));
  await predictor.load(config.models[0].name);
  const video = document.getElementById("video");
  const frames = [];
  for (let frame = 0; frame < count; frame++) {
    const started = performance.now();
    const { milliseconds } = await predictor.frame(video);
    frames.push({ total: performance.now() - started, ...milliseconds });
  }
  return frames.slice(10);
}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def write_sites(folder: Path) -> dict[str, Path]:
    """The shipped model, its weights in floating point, and S1 at its own size: the folders, by what they are."""
    whole = open_network("shvit_s1")
    write_model_file(open_network(str(WEIGHTS), 128), "fp16", folder / "shipped.onnx")
    for precision in ("fp16", "int8"):
        write_model_file(whole, precision, folder / f"{precision}.onnx")
    models = {
        "S1, 128 px, int8 (shipped)": DEFAULT_MODEL,
        "S1, 128 px, float16": folder / "shipped.onnx",
        f"S1, 224 px, int8 ({whole.weights} weights)": folder / "int8.onnx",
        f"S1, 224 px, float16 ({whole.weights} weights)": folder / "fp16.onnx",
    }
    sites = {name: folder / str(place) for place, name in enumerate(models)}
    for name, model in models.items():
        write_site(model, sites[name])
    return sites


def visit(browser: Browser, address: str, threads: int, seconds: float) -> dict[str, Any]:
    """One visit: the live camera for some seconds, then frames one after the other."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{address}?threads={threads}&device=wasm")
        expect(page.locator("#where")).to_contain_text(f"{threads} thread", timeout=120_000)
        page.get_by_role("button", name="Start camera").click()
        expect(page.locator("#fps")).not_to_have_text("–", timeout=60_000)
        page.wait_for_timeout(1000 * seconds)
        live = {"frames_per_second": float(page.locator("#fps").inner_text())}
        live["latency_ms"] = float(page.locator("#latency").inner_text())
        page.get_by_role("button", name="Stop camera").click()
        # The stopped camera's worker is idle; the video element gets the film again for the second measurement.
        page.evaluate(
            "async () => { const video = document.getElementById('video'); video.srcObject = await "
            "navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } }); await video.play(); }"
        )
        frames = page.evaluate(FRAMES, [threads, 110])
    return {**live, **{key: statistics.median(each[key] for each in frames) for key in ("total", "prepare", "infer")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of the camera in each visit")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        film = folder / "coffee.y4m"
        command = ["ffmpeg", "-loglevel", "error", "-loop", "1", "-i", str(SAMPLES / "coffee.jpg"), "-t", "1"]
        command += ["-r", "60", "-vf", "scale=640:480,setsar=1", "-pix_fmt", "yuv420p", str(film)]
        subprocess.run(command, check=True)
        sites = write_sites(folder)
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=args.chromium, args=flags)
        visits: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for _ in range(args.runs):
            for model, site in sites.items():
                for threads in (1, 2):
                    with served(site) as address:
                        found = visit(browser, address, threads, args.seconds)
                    visits.setdefault((model, threads), []).append(found)
        chromium = browser.version
        browser.close()
    result = [
        {
            "model": model,
            "threads": threads,
            "camera_frames_per_second": summary([each["frames_per_second"] for each in found]),
            "camera_latency_ms": summary([each["latency_ms"] for each in found]),
            "frame_ms": summary([each["total"] for each in found]),
            "prepare_ms": summary([each["prepare"] for each in found]),
            "infer_ms": summary([each["infer"] for each in found]),
        }
        for (model, threads), found in visits.items()
    ]
    about = {"chromium": chromium, "onnxruntime_web": VERSION, "camera": "640×480 at 60 frames/s, from a file"}
    record("web", "python benchmarks/web.py", {**about, "settings": result})


if __name__ == "__main__":
    main()
