"""What the unknown score costs, and whether every engine and the browser give the same one."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, expect, sync_playwright

from common import summary
from networks import WEIGHTS, card_of, export_file, network_of, see
from shvit.calibration.fitting import CalibrationOptions, Fitting
from shvit.calibration.made_pictures import KINDS, made_pictures
from shvit.card import Card
from shvit.data import open_dataset
from shvit.data.protocol import ImageDataset
from shvit.engines import load_engine
from shvit.exporting import FileOptions
from shvit.images.preprocess import decode, preprocess
from shvit.modelfile.finished import open_finished
from shvit.modelfile.program import Program
from shvit.predicting.outputs import UNKNOWN
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS
from shvit.web.onnxruntime_web import VERSION
from shvit.web.site import write_site
from web import FLAGS, served

CALIBRATED_ON = 2000
COMPARED_ON = 2000
ROUNDS, SECONDS = 40, 0.15
"""Turns of each file, and how long one is."""
AT_ONCE = 50
"""Pictures that the browser is given together."""

PREDICT = """
async (pictures) => {
  if (!globalThis.predictor) {
    const { choosePredictor } = await import("./predictor.js");
    const config = await (await fetch("config.json")).json();
    globalThis.predictor = choosePredictor(config, new URLSearchParams({ threads: 1, device: "wasm" }));
    await globalThis.predictor.load(config.models[0].name);
  }
  const found = [];
  for (const picture of pictures) {
    const blob = new Blob([Uint8Array.from(atob(picture), (each) => each.charCodeAt(0))], { type: "image/png" });
    const { known, unknown_score } = await globalThis.predictor.predict(blob);
    found.push([unknown_score, known]);
  }
  return found;
}
"""


def cost(data: Path, models: Path) -> dict[str, Any]:
    """Inference of the shipped network with and without the score, one thread, the two files in turns."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "fp32.onnx"
        export_file(WEIGHTS, plain)
        for precision, path in (("int8", SHIPPED_MODELS[DEFAULT_MODEL]), ("fp32", plain)):
            fitting, card = calibrated(path, data)
            without, with_score = (Path(folder) / f"{precision}_{name}.onnx" for name in ("without", "with"))
            for target, program in ((without, None), (with_score, fitting.program)):
                open_finished(path).write(target, UNKNOWN, program, replace(card, decision=None))
            assert fitting.program is not None
            sizes = {
                "precision": precision,
                "constants_bytes": fitting.program.size_bytes,
                "added_bytes": with_score.stat().st_size - without.stat().st_size,
                "file_bytes": with_score.stat().st_size,
            }
            results += [
                {**sizes, "engine": engine, "batch": batch, **_ratio(without, with_score, engine, batch)}
                for engine in ("onnxruntime", "openvino")
                for batch in (1, 16)
            ]
    return {"model": DEFAULT_MODEL, "classes": 200, "threads": 1, "rounds": ROUNDS, "settings": results}


def _ratio(without: Path, with_score: Path, engine: str, batch: int) -> dict[str, Any]:
    """Times with the score over those without, by the clock and by the processor, which other work disturbs less."""
    engines = [load_engine(engine, path, 1) for path in (without, with_score)]
    images = np.random.default_rng(0).integers(0, 256, (batch, 128, 128, 3), np.uint8)
    for each in engines:
        each.run(images)
    started = time.perf_counter()
    engines[0].run(images)
    runs = max(1, int(SECONDS / (time.perf_counter() - started)))
    wall: list[list[float]] = [[], []]
    processor: list[list[float]] = [[], []]
    for turn in range(2 * ROUNDS):
        place = (turn + turn // 2) % 2  # which of the two is first changes with each round
        began, used = time.perf_counter(), time.process_time()
        for _ in range(runs):
            engines[place].run(images)
        processor[place].append((time.process_time() - used) / runs * 1000)
        wall[place].append((time.perf_counter() - began) / runs * 1000)
    return {
        "ms_without": summary(wall[0]),
        "ratio": round(float(np.median(np.divide(wall[1], wall[0]))), 4),
        "processor_ms_without": summary(processor[0]),
        "processor_ratio": round(float(np.median(np.divide(processor[1], processor[0]))), 4),
    }


def calibrated(path: Path, data: Path) -> tuple[Fitting, Card]:
    """What `shvit calibrate` fits to 2,000 validation pictures."""
    val, network = open_dataset(data / "tiny-imagenet", "val"), network_of(path)
    own, _ = _division(val)
    made = [see(network, made_pictures(kind)) for kind in KINDS]
    outputs = see(network, (val.read(int(index)) for index in own))
    card = replace(card_of(path), decision=None)
    fitting = Fitting(card, outputs, val.labels[own], made, None, CalibrationOptions())
    return fitting, replace(card, decision=fitting.decision("2,000 validation pictures"))


def _division(val: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(val))
    return order[:CALIBRATED_ON], order[CALIBRATED_ON:][:COMPARED_ON]


def engines(data: Path, models: Path) -> dict[str, Any]:
    """Unknown scores and decisions of the same constants, beside ONNX Runtime's of the same precision."""
    result: dict[str, Any] = {"pictures": COMPARED_ON, "onnxruntime_web": VERSION}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        result["chromium"] = browser.version
        for precision in ("fp32", "fp16", "int8"):
            result[precision] = _of_precision(precision, data, Path(folder), browser)
        browser.close()
    return result


def _of_precision(precision: Any, data: Path, folder: Path, browser: Browser) -> dict[str, Any]:
    exported, path = SHIPPED_MODELS[DEFAULT_MODEL], folder / f"{precision}.onnx"
    if precision != "int8":
        exported = folder / f"exported_{precision}.onnx"
        export_file(WEIGHTS, exported, FileOptions("onnx", precision))
    fitting, card = calibrated(exported, data)
    open_finished(exported).write(path, UNKNOWN, fitting.program, card)
    val = open_dataset(data / "tiny-imagenet", "val")
    pictures = [decode(val.read(int(index))) for index in _division(val)[1]]
    inputs = np.stack([preprocess(each, card.preprocessing) for each in pictures])
    expected = _scores(path, "onnxruntime", inputs)
    found = {
        "openvino": _scores(path, "openvino", inputs),
        "browser": _in_browser(browser, path, folder / f"site_{precision}", pictures),
    }
    if precision != "int8":  # LiteRT's int8 is another quantisation, with other logits
        found["litert"] = _scores(_litert(folder, precision, fitting.program, card), "litert", inputs)
    assert card.decision is not None and card.decision.unknown is not None
    limit = card.decision.unknown.limit
    return {
        "limit": round(limit, 4),
        "unknown": round(float((expected > limit).mean()), 4),
        **{way: _compared(expected, scores, limit) for way, scores in found.items()},
    }


def _compared(expected: np.ndarray, found: np.ndarray, limit: float) -> dict[str, float]:
    away = np.abs(found - expected)
    return {
        "largest_difference": float(away.max()),
        "median_difference": float(np.median(away)),
        "same_decision": float(((found > limit) == (expected > limit)).mean()),
    }


def _scores(path: Path, engine: str, inputs: np.ndarray) -> np.ndarray:
    loaded = load_engine(engine, path, 1)
    return np.concatenate([loaded.run(batch)[UNKNOWN][:, 0] for batch in _batches(inputs)]).astype(np.float64)


def _batches(inputs: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(inputs), 16):
        yield inputs[first : first + 16]


def _litert(folder: Path, precision: str, program: Program | None, card: Card) -> Path:
    exported, path = folder / f"exported_{precision}.tflite", folder / f"{precision}.tflite"
    export_file(WEIGHTS, exported, FileOptions("litert", precision))
    open_finished(exported).write(path, UNKNOWN, program, card)
    return path


def _in_browser(browser: Browser, path: Path, site: Path, pictures: list[Any]) -> np.ndarray:
    """What the exported page's worker says, of PNG: whatever decodes them, the pixels are the same."""
    write_site(path, site)
    encoded = []
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, "PNG", compress_level=1)
        encoded.append(base64.b64encode(stream.getvalue()).decode())
    found = []
    with served(site) as address, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"{address}?threads=1&device=wasm")
        expect(page.locator("#where")).to_contain_text("1 thread", timeout=300_000)  # after it was loaded twice
        for first in range(0, len(encoded), AT_ONCE):
            found += page.evaluate(PREDICT, encoded[first : first + AT_ONCE])
    limit = card_of(path).decision.unknown.limit
    assert all(known == (score <= limit) for score, known in found)
    return np.array([score for score, _ in found])
