"""The whole way in Python: train, evaluate, export, classify, without a command."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import shvit
from shvit.cli.main import main
from shvit.errors import ArgumentError, ExportError, MissingDependencyError
from shvit.training import Optimizer, loop, read_recipe
from shvit.training.train import run_folder

from .conftest import PATIENCE

HERE = shvit.Execution(device="cpu", workers=0)
QUICK = shvit.Recipe(
    image_size=64, epochs=2, batch_size=8, ema_decay=0.5, optimizer=Optimizer(lr=3e-3, lr_batch_size=0, warmup_epochs=0)
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path) -> Path:
    """20 pictures of each of two colours, with noise."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for number in range(20):
            pixels = np.array(colour) + rng.integers(-30, 30, (64, 64, 3))
            file = tmp_path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    return tmp_path / "photos"


def test_from_photographs_to_predictions(photos, capfd):
    run = shvit.train(photos, recipe=QUICK, epochs=3, execution=HERE)
    assert (run.folder, run.recipe.epochs, run.epochs) == (Path("runs/shvit"), 3, 3)
    assert read_recipe(run.folder / "recipe.yaml") == run.recipe == replace(QUICK, epochs=3)
    assert run.notes[0] == "no validation split: 10 % of each class held out (4 images), seed 0"
    validations = [row for row in run.metrics if "val_top1" in row]
    assert len(validations) == 3
    assert validations[run.best_epoch - 1]["val_loss"] == run.loss

    result = shvit.evaluate(run.best, photos, shvit.EvaluationOptions(workers=0, batch_size=3))
    assert (result.measured, result.top1) == (4, run.top1)
    assert result.loss == pytest.approx(run.loss, rel=1e-3)
    page = result.write_report("report")
    assert page == Path("report/report.html")
    assert f"shvit.evaluate({str(run.best)!r}" in result.figures["command"]

    report = shvit.export(run.best, "mine.onnx")
    assert (report.path, report.card.verification.precision, report.int8) == (Path("mine.onnx"), "fp16", None)
    options = shvit.ExportOptions(max_loss=100)
    small = shvit.export(run.best, "mine8.onnx", options, precision="int8", calibration=photos)
    assert (small.int8.images, small.int8.float32_top1) == (4, run.top1)
    assert "4 validation images do not tell a loss of 100 points" in small.int8.notes[0]

    (found,) = shvit.Classifier("mine.onnx").predict([photos / "red" / "0.png"])
    assert {each.label for each in found.predictions} == {"red", "blue"}
    assert capfd.readouterr() == ("", "")


def test_it_is_what_the_commands_do(photos, capsys):
    """The same recipe, weights, figures and files; the functions tell nothing unless they are asked to."""
    flags = ["--epochs", "1", "--device", "cpu", "--workers", "0", "--output", "by-command"]
    assert main(["train", str(photos), "--image-size", "64", *flags]) == 0
    said = capsys.readouterr()
    recipe = replace(shvit.recipe_for(photos), image_size=64)
    run = shvit.train(photos, "by-call", recipe=recipe, epochs=1, execution=HERE)
    assert capsys.readouterr() == ("", "")
    assert (run.folder / "recipe.yaml").read_text() == Path("by-command/recipe.yaml").read_text()
    ours, theirs = load_file(run.best), load_file("by-command/best.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert f"best top-1 {run.top1:.2%}" in said.out
    shvit.train(photos, "telling", recipe=recipe, epochs=1, execution=HERE, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert said.err.splitlines()[:2] == told.err.splitlines()[:2] == list(run.notes[:2])
    assert f"{run.notes[2]}; chosen for 36 images" in said.err
    assert f"val_top1 {run.top1:.4g}" in told.err


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(photos, monkeypatch):
    """In another thread, as servers and some notebooks have it."""
    whole = shvit.train(photos, "whole", recipe=QUICK, execution=HERE)
    step = loop._train_step

    def interrupted(run, batch):
        if run.global_step == 6:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(loop, "_train_step", interrupted)
    often = replace(HERE, checkpoint_every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        shvit.train(photos, recipe=QUICK, execution=often)
    monkeypatch.undo()
    monkeypatch.chdir(photos.parent)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(shvit.train(photos, execution=HERE, resume=True)))
    thread.start()
    thread.join()
    (run,) = ended
    assert (run.folder, run.recipe, run.epochs) == (Path("runs/shvit"), QUICK, 2)
    assert "going on from epoch 2 of 2, step 3" in run.notes
    ours, theirs = load_file(run.last), load_file(whole.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
import shvit
{guard}
    run = shvit.train("photos", recipe=shvit.Recipe(image_size=64, epochs=1, batch_size=18), progress=False)
    print(shvit.evaluate(run.best, "photos").measured)
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":', "if True:"], ids=["guarded", "not guarded"])
def test_where_processes_are_started_anew(photos, guard):
    """As on macOS and Windows; a script without the guard is told of it, by the processes and by itself."""
    Path("mine.py").write_text(SCRIPT.format(guard=guard))
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, timeout=2 * PATIENCE)
    if guard != "if True:":
        assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
        return
    assert done.returncode == 1
    assert "ArgumentError: the script's call runs again in each decoding process: put it under if" in done.stderr
    assert "or the script's call is not under if __name__ == " in done.stderr.splitlines()[-1]
    assert [each.name for each in Path("runs").iterdir()] == ["shvit"]


def test_a_run_takes_a_folder_that_is_free(tmp_path):
    assert run_folder(resume=False) == run_folder(resume=True) == Path("runs/shvit")
    Path("runs/shvit").mkdir(parents=True)
    assert (run_folder(resume=False), run_folder(resume=True)) == (Path("runs/shvit-2"), Path("runs/shvit"))
    Path("runs/shvit-2").symlink_to("nowhere")
    assert (run_folder(resume=False), run_folder(resume=True)) == (Path("runs/shvit-3"), Path("runs/shvit-2"))


def test_mistakes_are_told_before_any_work(photos, colour_model):
    Path("odd.yaml").write_text("epochs: 3\noptimiser:\n  lr: 1\n")
    with pytest.raises(ArgumentError, match=r"odd\.yaml: not a recipe: .*optimiser"):
        shvit.train(photos, recipe="odd.yaml")
    with pytest.raises(ArgumentError, match=r"gone\.yaml: not a recipe: "):
        shvit.train(photos, recipe="gone.yaml")
    with pytest.raises(ValueError, match="epochs: expected 1 or more, got 0"):
        shvit.train(photos, epochs=0)
    held = Path("held/checkpoints/step-00000001.pt")
    held.parent.mkdir(parents=True)
    held.touch()
    with pytest.raises(ArgumentError, match="--output held: holds a run already"):
        shvit.train(photos, "held", epochs=1)
    with pytest.raises(ExportError, match="Core ML is exported as fp16, fp32, not as int8"):
        shvit.export("missing.safetensors", "a.mlpackage", format="coreml", precision="int8")
    with pytest.raises(ArgumentError, match="--max-loss: expected 0 to 100 points, got 200"):
        shvit.ExportOptions(max_loss=200)
    with pytest.raises(ArgumentError, match="--corruptions rain: expected all, or some of gaussian_noise"):
        shvit.EvaluationOptions(corruptions=["rain"])
    with pytest.raises(ArgumentError, match="--severity: expected 1 to 5, got 9"):
        shvit.EvaluationOptions(severities=[9])
    with pytest.raises(ArgumentError, match="--limit: expected 1 or more, got 0"):
        shvit.evaluate(colour_model, photos, limit=0)
    Path("report").mkdir()
    Path("report/report.html").symlink_to(colour_model)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"report\.html: is the same file as the input"):
        shvit.evaluate(colour_model, photos, report="report")
    assert not Path("runs").exists()


def test_a_warning_is_pythons(photos, colour_model):
    with pytest.warns(UserWarning, match="does not tell which images it was trained on") as caught:
        result = shvit.evaluate(colour_model, photos, shvit.EvaluationOptions(workers=0), limit=4)
    assert caught[0].filename == __file__
    assert result.notes[1].startswith("warning: ")
    assert result.measured == 4


def test_without_pytorch_each_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import shvit\n"
        "for call in (lambda: shvit.train('a'), lambda: shvit.evaluate('a.safetensors', 'b')):\n"
        "    try: call()\n"
        "    except shvit.errors.MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    training, evaluation = done.stdout.splitlines()
    assert training.startswith("this needs PyTorch, which is not installed; install the lab with: "), done.stderr
    assert evaluation.startswith("a.safetensors: is a checkpoint, which PyTorch runs, and torch is not installed")
    assert "install the lab with: " in evaluation
    assert issubclass(MissingDependencyError, ImportError)


def test_checkers_of_types_see_all_that_the_package_gives():
    """Names are imported when they are asked for; for type checkers they stand in a block of their own."""
    tree = ast.parse(Path(shvit.__file__).read_text())
    (block,) = (each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING")
    seen = {name.name: each.module for each in block.body for name in each.names}
    assert {*seen, "__version__"} == set(shvit.__all__)
    for name, module in seen.items():
        assert getattr(shvit, name) is getattr(sys.modules[module], name, None), name
