"""Published networks by name where a model file is taken, without PyTorch, against a hub on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file

from shvit.card import Card
from shvit.images.preprocess import decode, preprocess
from shvit.predicting.classifier import Classifier
from shvit.shipped import DEFAULT_MODEL, resolve_model

from ..conftest import SAMPLES
from .conftest import NAME, REPOSITORY, run_process

WITHOUT_LAB = """
import sys
for name in ("torch", "torchvision", "timm", "scipy", "matplotlib"):
    sys.modules[name] = None
from shvit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command in a process that has not what only the lab brings."""

PHOTOGRAPH = str(SAMPLES / "coffee.jpg")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Caches that tests share: the weights are fetched and their model file is made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def repository(hub, timm_repository) -> str:
    """S1 as timm publishes it, with weights from a seed; its commit."""
    return hub.publish(REPOSITORY, timm_repository(NAME))


def shvit(hub, home: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return run_process(hub, home, [sys.executable, "-c", WITHOUT_LAB, *arguments], **changes)


def card_of(hub, home: Path, name: str) -> Card:
    return Card.from_json(shvit(hub, home, "info", name, "--format", "json").stdout)


def converted(home: Path) -> list[Path]:
    return sorted((home / "shvit" / "models").rglob("*.onnx"))


def timm_scores(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Of one prepared image, by timm in float64."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).double().eval()
    mean, std = (torch.tensor(network.pretrained_cfg[key], dtype=torch.float64) for key in ("mean", "std"))
    with torch.inference_mode():
        return network(((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]).softmax(-1)[0].numpy()


def test_a_name_gives_what_timm_computes_and_later_uses_ask_nobody(hub, home, repository, timm_repository):
    first = shvit(hub, home, "predict", PHOTOGRAPH, "--model", NAME, "--format", "jsonl")
    assert first.returncode == 0 and first.stderr == ""
    predictions = json.loads(first.stdout)["predictions"]
    (file,) = converted(home)
    classifier = Classifier(file)
    expected = timm_scores(timm_repository(NAME), preprocess(decode(PHOTOGRAPH), classifier.card.preprocessing))
    assert [each["class_id"] for each in predictions] == np.argsort(-expected)[:5].tolist()
    assert abs(predictions[0]["score"] - expected.max()) < 2e-3
    hub.requests.clear()
    again = shvit(hub, home, "predict", PHOTOGRAPH, "--model", NAME, "--format", "jsonl", HF_ENDPOINT="http://[::1]:9")
    assert again.stdout == first.stdout and hub.requests == []


def test_its_card_says_what_is_known(hub, home, repository):
    card = card_of(hub, home, NAME)
    assert (card.name, card.architecture, card.licence, card.training_data) == (NAME, NAME, "mit", "ImageNet-1k")
    assert (card.classes[0].label, card.classes[0].wnid) == ("tench, Tinca tinca", "n01440764")
    assert (card.weights.repository, card.weights.commit) == (REPOSITORY, repository)
    assert card.metrics[0].value == 0.7278 and "as timm measured it" in card.metrics[0].dataset
    assert card.verification.images == 12 and card.verification.top1_agreement == 1
    assert card.parameters == 6_307_596 and card.macs == 241_400_128
    text = shvit(hub, home, "info", NAME).stdout
    assert f"{REPOSITORY}, model.safetensors, SHA-256 {card.weights.sha256}" in text


@pytest.mark.parametrize(
    "command", ["predict", "explain", "batch", "info", "serve", "video", "bench", "export", "eval"]
)
def test_what_is_nearly_a_name_is_answered_with_it(hub, tmp_path, command):
    rest = {
        "info": ["s4"],
        "batch": ["--model", "s4", "--output", str(tmp_path / "out"), str(SAMPLES)],
        "serve": ["--model", "s4"],
        "bench": ["speed", "--model", "s4"],
        "export": ["--model", "s4", "--output", str(tmp_path / "s4.onnx")],
        "eval": ["--model", "s4", "--data", str(SAMPLES)],
    }.get(command, ["--model", "s4", PHOTOGRAPH])
    done = shvit(hub, tmp_path, command, *rest)
    assert done.returncode == 2 and "did you mean shvit_s4?" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and hub.requests == []


def test_two_that_ask_first_at_once_leave_one_whole_file(hub, tmp_path, repository):
    command = [sys.executable, "-c", WITHOUT_LAB, "predict", PHOTOGRAPH, "--model", NAME, "--format", "jsonl"]
    running = [
        subprocess.Popen(command, env=hub.environment(tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = {each.communicate()[0] for each in running}
    assert len(answers) == 1 and "predictions" in answers.pop()
    (file,) = converted(tmp_path)
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_kill_leaves_nothing_under_a_final_name(hub, tmp_path, repository):
    command = [sys.executable, "-c", WITHOUT_LAB, "predict", PHOTOGRAPH, "--model", NAME]
    began = time.monotonic()
    for share in (0.3, 0.6, 0.9):
        whole = 6.0 if share == 0.3 else max(time.monotonic() - began, 1.0)
        running = subprocess.Popen(command, env=hub.environment(tmp_path), stdout=subprocess.DEVNULL)
        try:
            running.wait(share * min(whole, 6.0))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
        for file in converted(tmp_path):
            if not file.name.startswith("."):
                assert Classifier(file).card.name == NAME


def mangled(folder: Path, target: Path, change) -> dict[str, bytes]:
    """A timm repository with other tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target)
    return {"model.safetensors": target.read_bytes(), "config.json": (folder / "config.json").read_bytes()}


def drop(tensors) -> None:
    del tensors["stages.0.blocks.1.conv.m.c.weight"]


def reshape(tensors) -> None:
    tensors["head.l.weight"] = tensors["head.l.weight"][:, :100].copy()


def diverge(tensors) -> None:
    tensors["stages.1.blocks.0.ffn.m.pw1.c.weight"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop, "these tensors are of none of shvit_s1, shvit_s2"),
        (reshape, "head.l.weight"),
        (diverge, "stages.1.blocks.0.ffn.m.pw1.c.weight"),
    ],
)
def test_weights_that_are_none_of_a_shvit_are_refused_by_repository_and_tensor(
    hub, tmp_path, timm_repository, change, reason
):
    hub.publish("me/bad", mangled(timm_repository(NAME), tmp_path / "bad.safetensors", change))
    done = shvit(hub, tmp_path, "predict", PHOTOGRAPH, "--model", "hf://me/bad")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "me/bad" in done.stderr and reason in done.stderr
    assert converted(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"label_names": ["a", "b"]}, "config.json names 2 classes, the network has 1,000 outputs"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, "only ImageNet's normalisation"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 224]}}, "pretrained_cfg"),
        ({"label_names": 7}, "expected a list of texts"),
    ],
)
def test_a_config_that_cannot_be_is_refused(hub, tmp_path, timm_repository, config, reason):
    files = {"model.safetensors": (timm_repository(NAME) / "model.safetensors").read_bytes()}
    hub.publish("me/odd", {**files, "config.json": json.dumps(config).encode()})
    done = shvit(hub, tmp_path, "info", "hf://me/odd")
    assert done.returncode == 2 and "me/odd" in done.stderr and reason in done.stderr, done.stderr


def test_where_config_and_tensors_disagree_the_tensors_decide(hub, tmp_path, timm_repository):
    config = json.loads((timm_repository(NAME) / "config.json").read_text())
    files = {"model.safetensors": (timm_repository(NAME) / "model.safetensors").read_bytes()}
    hub.publish("me/s4", {**files, "config.json": json.dumps({**config, "architecture": "shvit_s4"}).encode()})
    done = shvit(hub, tmp_path, "info", "hf://me/s4")
    assert done.returncode == 0 and "config.json says architecture 'shvit_s4'" in done.stderr
    assert "architecture  shvit_s1" in done.stdout


def test_a_cache_that_cannot_be_written_to_is_one_message(hub, tmp_path, repository):
    (tmp_path / "shvit").write_text("in the way")
    done = shvit(hub, tmp_path, "predict", PHOTOGRAPH, "--model", NAME)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path / "shvit") in done.stderr


@pytest.mark.parametrize("damage", ["cut off", "another's"])
def test_a_kept_file_that_is_not_of_its_weights_is_made_again(hub, home, repository, damage):
    asked = ("predict", PHOTOGRAPH, "--model", NAME, "--format", "jsonl")
    before = shvit(hub, home, *asked).stdout
    (file,) = (each for each in converted(home) if each.name.endswith("-fp16-v1.onnx"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut off" else resolve_model(DEFAULT_MODEL).read_bytes())
    done = shvit(hub, home, *asked)
    assert done.returncode == 0 and done.stdout == before, done.stderr
    assert abs(file.stat().st_size - len(whole)) < 1000


def test_a_server_has_it_before_it_is_ready(hub, home, repository):
    command = [sys.executable, "-c", WITHOUT_LAB, "serve", "--port", "0", "--model", NAME]
    with subprocess.Popen(command, env=hub.environment(home), stdout=subprocess.PIPE, text=True) as running:
        try:
            assert "serving on http://" in running.stdout.readline() and converted(home)
        finally:
            running.terminate()


def test_a_repository_with_one_of_our_model_files_is_used_as_it_is(hub, tmp_path):
    hub.publish("me/mine", {"shvit.onnx": resolve_model(DEFAULT_MODEL).read_bytes(), "README.md": b"# mine"})
    given, shipped = (
        json.loads(shvit(hub, tmp_path, "predict", PHOTOGRAPH, "--model", model, "--format", "jsonl").stdout)
        for model in ("hf://me/mine", DEFAULT_MODEL)
    )
    assert given == shipped and converted(tmp_path) == []
    asked = shvit(hub, tmp_path, "predict", PHOTOGRAPH, "--model", "hf://me/mine:int8")
    assert asked.returncode == 2 and "me/mine: cannot be fetched: it has no weights" in asked.stderr


def write_photographs(folder: Path, count: int) -> None:
    """Crops of the samples, each another one."""
    folder.mkdir()
    pictures = [decode(path) for path in sorted(SAMPLES.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        left, top = (int(rng.uniform(0, side / 2)) for side in picture.size)
        part = picture.crop((left, top, left + picture.width // 2, top + picture.height // 2))
        part.resize((256, 256)).save(folder / f"{number:03}.jpg")


def test_int8_of_photographs_without_labels_is_kept_for_the_name(hub, home, repository, tmp_path):
    asked = shvit(hub, home, "predict", PHOTOGRAPH, "--model", f"{NAME}:int8")
    assert asked.returncode == 2 and f"shvit export --model {NAME} --precision int8 --calibration" in asked.stderr
    write_photographs(tmp_path / "photos", 70)
    quantise = ("export", "--model", NAME, "--precision", "int8", "--calibration", str(tmp_path / "photos"))
    done = shvit(hub, home, *quantise, "--max-loss", "100")  # a random network changes its mind easily
    assert done.returncode == 0, done.stderr
    assert "is calibrated on 35 photographs and measured on 35, which is little" in done.stderr
    assert f"try it: shvit predict IMAGE --model {NAME}:int8" in done.stdout
    card = card_of(hub, home, f"{NAME}:int8")
    assert card.name == f"{NAME}:int8" and card.weights.commit == repository
    agreement, shift = card.metrics
    assert (agreement.name, shift.name) == ("float32_agreement", "score_shift")
    assert "35 photographs without labels, not calibrated on" in agreement.dataset
    before, after = (
        {each["class_id"]: each["score"] for each in json.loads(answer.stdout)["predictions"]}
        for answer in (
            shvit(hub, home, "predict", PHOTOGRAPH, "--model", name, "--top-k", "1000", "--format", "jsonl")
            for name in (NAME, f"{NAME}:int8")
        )
    )
    assert (
        before != after and np.corrcoef([before[i] for i in range(1000)], [after[i] for i in range(1000)])[0, 1] > 0.8
    )


def test_too_few_photographs_are_refused_before_anything_is_written(hub, home, repository, tmp_path):
    write_photographs(tmp_path / "photos", 40)
    quantise = ("export", "--model", NAME, "--precision", "int8", "--calibration", str(tmp_path / "photos"))
    done = shvit(hub, home, *quantise, "--output", str(tmp_path / "s1.onnx"))
    assert done.returncode == 2 and "40 photographs are too few" in done.stderr
    assert not (tmp_path / "s1.onnx").exists()


def test_what_is_exported_of_a_name_is_said_by_the_precision_alone(hub, tmp_path):
    done = shvit(hub, tmp_path, "export", "--model", f"{NAME}:int8", "--output", str(tmp_path / "s1.onnx"))
    assert done.returncode == 2 and f"give {NAME}, and --precision int8" in done.stderr and hub.requests == []


def test_a_format_that_needs_the_lab_says_so(hub, home, repository, tmp_path):
    output = tmp_path / "s1.mlpackage"
    done = shvit(hub, home, "export", "--model", NAME, "--format", "coreml", "--output", str(output))
    assert done.returncode == 2 and "--format coreml needs torch" in done.stderr and not output.exists()


def test_an_output_is_left_out_only_for_a_name_in_8_bits(hub, tmp_path):
    for arguments in (("--model", NAME), ("--model", "mine.pth", "--precision", "int8", "--calibration", "photos")):
        done = shvit(hub, tmp_path, "export", *arguments)
        assert done.returncode == 2 and "--output: missing" in done.stderr and hub.requests == []
