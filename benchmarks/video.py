"""A 720p video to events on one core: exact and fast, beside decoding alone and the loop that a user would write.

The clip is made here with ffmpeg: photographs of samples/ under a moving, zooming window, with noise, 30 frames a
second, about 4 Mbit/s. Programs take turns, each over the whole clip, in this process, which is bound to one core. Then
live mode: the same clip served in real time on loopback, read by ``shvit video`` on the other core, if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image

from common import S1_INT8, record, s1_int8, summary
from shvit import Classifier
from shvit.images.preprocess import resized_size
from shvit.shipped import DEFAULT_MODEL
from shvit.video.classify import frame_preparation
from shvit.video.complete import CompleteRun, Options
from shvit.video.frames import Frame, ReadOptions, Video
from shvit.video.output import FrameRows

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.jpg"))
FPS, WIDTH, HEIGHT = 30, 1280, 720
SCENE = 5 * FPS
"""Frames of one photograph."""


def make_clip(path: Path, seconds: int) -> None:
    """A clip that is about as hard to decode as a camera's of 4 Mbit/s."""
    photographs = [Image.open(each).convert("RGB") for each in SAMPLES]
    random = np.random.default_rng(0)
    noise = [random.normal(0, 3, (HEIGHT, WIDTH, 1)).astype(np.int16) for _ in range(4)]
    encoder = ["-c:v", "libx264", "-preset", "medium", "-b:v", "4M", "-maxrate", "6M", "-bufsize", "8M"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", FPS, "-i", "-"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, *encoder, "-pix_fmt", "yuv420p", path]
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in range(seconds * FPS):
            photograph = photographs[number // SCENE % len(photographs)]
            zoom = 1.1 + 0.4 * abs(math.sin(number / 70))
            width = min(photograph.width, photograph.height * WIDTH / HEIGHT) / zoom
            height = width * HEIGHT / WIDTH
            left = (photograph.width - width) * (0.5 + 0.5 * math.sin(number / 40))
            top = (photograph.height - height) * (0.5 + 0.5 * math.cos(number / 55))
            box = (left, top, left + width, top + height)
            picture = np.asarray(photograph.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box))
            noisy = picture + np.roll(noise[number % 4], number * 37 % HEIGHT, 0)
            process.stdin.write(np.clip(noisy, 0, 255).astype(np.uint8).tobytes())
        process.stdin.close()
    if process.returncode:
        raise SystemExit("ffmpeg could not write the clip")


def shvit_program(classifier: Classifier, fast: bool, frames: Path) -> Callable[[Path], list[int]]:
    """``shvit video CLIP --threads 1 --frames FILE``, without the start of the process; first labels."""

    def run(clip: Path) -> list[int]:
        rows = FrameRows(frames)
        (done,) = CompleteRun(classifier, Options(fast=fast), rows).run([str(clip)])
        assert not done.failed, done
        rows.finish()
        return [json.loads(line)["predictions"][0]["class_id"] for line in frames.read_text().splitlines()]

    return run


def usual_program(classifier: Classifier) -> Callable[[Path], list[int]]:
    """What a user would write: PyAV's frames as PIL images, resized and cropped, one after the other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(classifier.path, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    preprocessing = classifier.card.preprocessing
    side = preprocessing.image_size[0]

    def run(clip: Path) -> list[int]:
        labels = []
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                image = image.resize(resized_size(*image.size, preprocessing), Image.Resampling.BICUBIC)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                pixels = np.asarray(image.crop((left, top, left + side, top + side)))[None]
                labels.append(int(session.run(None, {name: pixels})[0].argmax()))
        return labels

    return run


def decode_only(clip: Path) -> list[int]:
    """The bound: every frame decoded, nothing done with it."""
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [0 for _ in container.decode(video=0)]


def compare(model: str, clip: Path, seconds: float, rounds: int, folder: Path) -> dict[str, object]:
    classifier = Classifier(model, engine="onnxruntime", threads=1)
    programs: dict[str, Callable[[Path], list[int]]] = {
        "shvit": shvit_program(classifier, False, folder / "frames.jsonl"),
        "shvit_fast": shvit_program(classifier, True, folder / "fast.jsonl"),
        "usual": usual_program(classifier),
        "decode_only": decode_only,
    }
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    processor: dict[str, list[float]] = {name: [] for name in programs}
    labels: dict[str, list[int]] = {}
    for _ in range(rounds):
        for name, run in programs.items():
            started, used = time.perf_counter(), time.process_time()
            labels[name] = run(clip)
            speeds[name].append(seconds / (time.perf_counter() - started))
            processor[name].append(seconds / (time.process_time() - used))
    figures: dict[str, object] = {
        "frames": len(labels["shvit"]),
        "times_real_time": {name: summary(each) for name, each in speeds.items()},
        "times_real_time_of_processor_time": {name: summary(each) for name, each in processor.items()},
        "over_usual": {
            name: summary([ours / usual for ours, usual in zip(speeds[name], speeds["usual"], strict=True)])
            for name in ("shvit", "shvit_fast")
        },
        "share_of_decoding": {
            name: summary([ours / bound for ours, bound in zip(speeds[name], speeds["decode_only"], strict=True)])
            for name in ("shvit", "shvit_fast")
        },
        "same_first_label": {
            "usual": agreement(labels["usual"], labels["shvit"]),
            "fast": agreement(labels["shvit_fast"], labels["shvit"]),
        },
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return figures


def agreement(ours: list[int], theirs: list[int]) -> float:
    return float(np.mean(np.array(ours) == np.array(theirs)))


def what_each_way_changes(clip: Path, every: int) -> dict[str, object]:
    """First labels and pixels of each way to be faster, beside those of still pictures, on every so manieth frame."""
    classifier = Classifier(engine="onnxruntime", threads=1)
    usual, quick = (frame_preparation(classifier.card.preprocessing, fast) for fast in (False, True))
    found: dict[str, list[np.ndarray]] = {}
    for name, fast_decoder, prepare in (
        ("as a still picture", False, lambda frame: classifier.preprocess(frame.image)),
        ("without --fast-decode", False, usual),
        ("with --fast-decode, but for the loop filter", False, quick),
        ("with --fast-decode", True, quick),
    ):
        with Video(clip, ReadOptions(fast=fast_decoder)) as video:
            found[name] = [prepare(each) for each in video if isinstance(each, Frame) and each.index % every == 0]
    labels = {name: classifier.predict_batch(np.stack(each)).argmax(1) for name, each in found.items()}
    reference = np.stack(found["as a still picture"]).astype(int)
    return {
        name: {
            "same_first_label": float((labels[name] == labels["as a still picture"]).mean()),
            "mean_difference": float(np.abs(np.stack(each) - reference).mean()),
            "largest_difference": int(np.abs(np.stack(each) - reference).max()),
        }
        for name, each in found.items()
        if name != "as a still picture"
    }


def as_a_camera(clip: Path, path: Path) -> Path:
    """The same without frames that are sent out of order, as cameras encode."""
    encoder = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-b:v", "4M", "-g", 2 * FPS]
    subprocess.run(list(map(str, ["ffmpeg", "-v", "error", "-y", "-i", clip, *encoder, "-an", path])), check=True)
    return path


def live(clip: Path, seconds: int, core: int) -> dict[str, object]:
    """``shvit video`` bound to one core, on a stream that ffmpeg serves in real time from another."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    serve = ["ffmpeg", "-v", "error", "-re", "-i", clip, "-c", "copy", "-f", "mpegts", "-listen", 1, address]
    watch = [sys.executable, "-m", "shvit", "video", address, "--threads", 1, "--format", "jsonl"]
    sides = {}
    for name, more in (("shvit", []), ("shvit_fast", ["--fast-decode"])):
        server = subprocess.Popen(list(map(str, serve)))
        try:
            time.sleep(0.5)
            done = subprocess.run(
                ["taskset", "-c", str(core), *map(str, watch), *more, "--duration", str(seconds)],
                check=True,
                capture_output=True,
                text=True,
            )
        finally:
            server.kill()
            server.wait()
        sides[name] = json.loads(done.stdout.splitlines()[-1])["video"]["live"]
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of the clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL, S1_INT8], help="default: %(default)s")
    parser.add_argument("--clip", type=Path, help="another 720p clip, such as one's own")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = args.clip or folder / "clip.mp4"
        if args.clip is None:
            make_clip(clip, args.seconds)
        with Video(clip) as video:
            about = {
                "size": [video.width, video.height],
                "fps": video.rate,
                "codec": video.codec,
                "seconds": video.duration,
                "mbit_per_second": 8e-6 * clip.stat().st_size / (video.duration or 1),
            }
        files = {each: s1_int8(folder) if each == S1_INT8 else each for each in args.model}
        os.sched_setaffinity(0, cores[-1:])
        figures = {name: compare(file, clip, video.duration or 1, args.rounds, folder) for name, file in files.items()}
        changes = what_each_way_changes(clip, 1 if (video.duration or 0) < 20 else 5)
        os.sched_setaffinity(0, cores)
        seconds = min(30, args.seconds)
        served = {
            "as_a_camera": live(as_a_camera(clip, folder / "camera.mp4"), seconds, cores[-1]),
            "with_b_frames": live(clip, seconds, cores[-1]),
        }
    record(
        "video",
        "python benchmarks/video.py",
        {"clip": about, "complete_one_core": figures, "changes": changes, "live_model": DEFAULT_MODEL, "live": served},
    )


if __name__ == "__main__":
    main()
