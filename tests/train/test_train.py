from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file

from shvit.cli.train import parse_recipe
from shvit.data import Augmentation, open_dataset
from shvit.errors import CheckpointError, DataError
from shvit.models.checkpoints import load_model
from shvit.train import Distillation, Optimizer, Recipe, evaluate, fit, resume, setup
from shvit.train.distillation import PrecomputedTeacher, distillation_loss, load_teacher
from shvit.train.loop import learning_rate
from shvit.train.mixing import mix
from shvit.train.precision import keep_depthwise_in_float32
from shvit.train.precompute import precompute_logits

WNIDS = ("n01443537", "n02124075", "n07920052")
RECIPE = Recipe(
    image_size=64, epochs=2, batch_size=8, workers=0, optimizer=Optimizer(lr=2e-2, warmup_epochs=0.2), ema_decay=0.5
)


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """Three classes that differ in colour: enough to see that something is learnt."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label, wnid in enumerate(WNIDS):
            for i in range(count):
                pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
                pixels[..., label] += 130
                path = root / split / wnid / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def train(colours: Path, folder: Path, recipe: Recipe):
    torch.set_num_threads(1)
    return setup(recipe, open_dataset(colours, "train"), open_dataset(colours, "val"), folder, device="cpu")


def test_it_learns_and_leaves_what_the_next_step_needs(colours, tmp_path):
    run = train(colours, tmp_path / "run", replace(RECIPE, epochs=4, ema_decay=0))
    seen = []
    progress = fit(run, lambda progress, figures: seen.append(figures))
    losses = [figures["loss"] for figures in seen if "loss" in figures]
    assert len(losses) == 4 * 6
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.2
    assert {path.name for path in run.folder.iterdir()} == {"best.safetensors", "last.safetensors", "checkpoint.pt"}
    model, checkpoint = load_model(run.folder / "best.safetensors")
    assert [each["wnid"] for each in checkpoint.metadata["classes"]] == list(WNIDS)
    assert checkpoint.metadata["recipe"]["epochs"] == 4
    again = evaluate(model, run.val, run.preprocessing, batch_size=5, workers=0)
    assert again.top1 == progress.best_top1
    assert again.images == 12


def test_a_resumed_run_ends_with_the_same_weights(colours, tmp_path):
    recipe = replace(RECIPE, augmentation=Augmentation(color_jitter=0.3), mixup=0.2, cutmix=1.0, drop_path=0.1)
    whole = train(colours, tmp_path / "whole", recipe)
    fit(whole)

    class StopError(Exception):
        pass

    def stop_in_second_epoch(progress, figures):
        if (progress.epoch, progress.step) == (1, 2):
            raise StopError

    part = train(colours, tmp_path / "part", recipe)
    with pytest.raises(StopError):
        fit(part, stop_in_second_epoch)
    torch.rand(5)
    rest = train(colours, tmp_path / "part", recipe)
    assert resume(rest)
    assert rest.progress.epoch == 1
    fit(rest)
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_recipe_or_a_damaged_checkpoint_is_not_resumed(colours, tmp_path):
    run = train(colours, tmp_path, replace(RECIPE, epochs=1))
    assert not resume(run)
    fit(run)
    with pytest.raises(CheckpointError, match="the run had another recipe; changed: epochs, mixup"):
        resume(train(colours, tmp_path, replace(RECIPE, epochs=3, mixup=0.5)))
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be resumed from"):
        resume(train(colours, tmp_path, replace(RECIPE, epochs=1)))


def test_a_loss_that_is_not_finite_stops_and_says_where(colours, tmp_path):
    run = train(colours, tmp_path, RECIPE)
    with torch.no_grad():
        run.network.head.linear.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at epoch 1, step 1"):
        fit(run)


def test_data_that_does_not_fit_is_refused(colours, tmp_path):
    with pytest.raises(DataError, match="48 images do not fill one batch of 64"):
        train(colours, tmp_path, replace(RECIPE, batch_size=64))


def test_bfloat16_trains_and_leaves_depthwise_convolutions_in_float32(colours, tmp_path):
    run = train(colours, tmp_path, replace(RECIPE, epochs=1, precision="bf16-mixed"))
    kinds = []
    run.network.stages[0].blocks[0].local.dw.conv.register_forward_hook(lambda m, i, o: kinds.append(o.dtype))
    run.network.stages[0].blocks[0].ffn.expand.conv.register_forward_hook(lambda m, i, o: kinds.append(o.dtype))
    fit(run)
    assert kinds[:2] == [torch.float32, torch.bfloat16]


def test_keeping_depthwise_in_float32_changes_no_weights_and_no_float32_result():
    model = timm.create_model("shvit_s1", num_classes=3).eval()
    image = torch.randn(1, 3, 64, 64)
    names, expected = list(model.state_dict()), model(image)
    keep_depthwise_in_float32(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(image), expected)


def test_learning_rate():
    recipe = Recipe(epochs=10, batch_size=256, optimizer=Optimizer(lr=4e-3, warmup_epochs=2, min_lr=1e-5))
    assert [learning_rate(recipe, epoch) for epoch in (0, 1, 2, 6, 10)] == pytest.approx(
        [0, 1e-3, 2e-3, (2e-3 + 1e-5) / 2, 1e-5]
    )


def test_mixing_images_and_targets_in_one_proportion():
    images = torch.stack([torch.zeros(3, 20, 20), torch.ones(3, 20, 20)])
    targets = F.one_hot(torch.tensor([0, 1]), 2).float()
    for seed in range(40):
        for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0), (0.8, 1.0)):
            rng = np.random.default_rng(seed)
            mixed, (labels,) = mix(images.clone(), [targets], mixup, cutmix, rng)
            assert labels.sum(dim=1).tolist() == pytest.approx([1, 1])
            assert mixed.mean(dim=(1, 2, 3)).tolist() == pytest.approx(labels[:, 1].tolist(), abs=1e-5)
    same, (labels,) = mix(images.clone(), [targets], 0, 0, np.random.default_rng(0))
    assert torch.equal(same, images) and torch.equal(labels, targets)


def test_distillation_loss_is_kl_divergence_up_to_the_teachers_entropy():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 9, requires_grad=True), torch.randn(4, 9)
    for temperature in (1.0, 3.0):
        soft = (teacher / temperature).softmax(-1)
        ours = distillation_loss(student, soft, temperature)
        kl = F.kl_div((student / temperature).log_softmax(-1), soft, reduction="batchmean") * temperature**2
        entropy = -(soft * soft.log()).sum(-1).mean() * temperature**2
        torch.testing.assert_close(ours, kl + entropy)


@pytest.fixture(scope="module")
def logits(colours, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("logits")
    weights = folder / "teacher.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
    images = open_dataset(colours, "train")
    teacher = load_teacher("tf_efficientnet_lite0", weights, images.classes, size=64)
    precompute_logits(teacher, images, folder, views=2, augmentation=RECIPE.augmentation, seed=0, workers=0)
    return folder


def test_a_precomputed_teacher_says_what_the_live_one_would(colours, logits):
    """The student's batch at the teacher's size, run through the teacher, gives the logits that were stored."""
    from shvit.data.loader import training_loader
    from shvit.data.sampler import EpochSampler
    from shvit.data.transforms import TrainTransform

    images = open_dataset(colours, "train")
    stored = PrecomputedTeacher(logits, images, RECIPE.augmentation, seed=0)
    live = load_teacher("tf_efficientnet_lite0", logits / "teacher.pth", images.classes, size=64)
    sampler = EpochSampler(len(images), 4, seed=0, epoch=3)
    transform = TrainTransform(RECIPE.augmentation, 64, seed=0, crops_only=True)
    batch = next(iter(training_loader(images, transform, sampler, workers=0, views=stored.views)))
    with torch.no_grad():
        expected = live(batch.images)
    torch.testing.assert_close(stored.logits(batch.images, batch.indices, epoch=3), expected, rtol=2e-2, atol=2e-2)


def test_training_with_a_teacher_precomputed_and_live(colours, logits, tmp_path):
    for name, plan in (
        ("stored", Distillation(logits=str(logits))),
        ("live", Distillation(teacher="tf_efficientnet_lite0", teacher_weights=str(logits / "teacher.pth"))),
    ):
        run = train(colours, tmp_path / name, replace(RECIPE, epochs=1, distillation=plan))
        losses = []
        fit(run, lambda progress, figures, losses=losses: losses.append(figures.get("loss", 0)))
        # Two parts, the teacher's times the temperature squared: more than cross-entropy alone.
        assert losses[0] > 0.8 * 4 * np.log(3) * 0.8


def test_logits_of_other_data_or_crops_are_refused(colours, logits):
    images = open_dataset(colours, "train")
    with pytest.raises(DataError, match="made with seed = 0, this run has 1"):
        PrecomputedTeacher(logits, images, RECIPE.augmentation, seed=1)
    with pytest.raises(DataError, match=r"augmentation\.crop_scale"):
        PrecomputedTeacher(logits, images, Augmentation(crop_scale=(0.1, 1.0)), seed=0)
    with pytest.raises(DataError, match="images = 48, this run has 12"):
        PrecomputedTeacher(logits, open_dataset(colours, "val"), RECIPE.augmentation, seed=0)
    with pytest.raises(DataError, match="not the card of precomputed logits"):
        PrecomputedTeacher(colours, images, RECIPE.augmentation, seed=0)


def test_fitting_the_teachers_head_helps(colours, logits, tmp_path):
    images = open_dataset(colours, "train")
    teacher = load_teacher("tf_efficientnet_lite0", logits / "teacher.pth", images.classes, size=64)
    precompute_logits(teacher, images, tmp_path, 1, RECIPE.augmentation, seed=0, workers=0, fit_head=True)
    before, after = (np.load(folder / "view0.npy").astype(np.float32) for folder in (logits, tmp_path))
    loss = [F.cross_entropy(torch.from_numpy(rows), torch.from_numpy(images.labels)) for rows in (before, after)]
    assert loss[1] < loss[0]


def test_recipes_from_flags_yaml_and_their_mistakes(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 7\noptimizer:\n  lr: 0.5\ndistillation:\n  alpha: 0.1\n")
    recipe = parse_recipe(["--config", str(file), "--batch-size", "32", "--optimizer.weight_decay=0.1"])
    assert (recipe.epochs, recipe.batch_size, recipe.distillation.alpha) == (7, 32, 0.1)
    assert recipe.optimizer == Optimizer(lr=0.5, weight_decay=0.1)
    for wrong in (["--epochs", "many"], ["--epoch_count", "3"], ["--optimizer.lr=-1"], ["--precision", "8-bit"]):
        with pytest.raises((SystemExit, ValueError)) as caught:
            parse_recipe(wrong)
        said = capsys.readouterr().err + str(caught.value)
        assert wrong[0].lstrip("-").split("=")[0].split(".")[-1] in said


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"crop_ratio": 0}, "crop_ratio"),
        ({"image_size_start": 999}, "image_size_start"),
        ({"precision": "half"}, "precision"),
        ({"mixup": -1}, "mixup"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_fields_name(fields, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        Recipe(**fields)


def test_image_size_grows_to_the_last_epoch():
    recipe = Recipe(image_size=128, image_size_start=64, epochs=9)
    sizes = [recipe.image_size_at(epoch) for epoch in range(9)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (64, 128)
    assert set(sizes) == {64, 96, 128}


def test_the_command_line_trains_is_killed_and_goes_on(colours, tmp_path):
    """kill -9 in the second epoch, the same command with --resume auto: the weights of an uninterrupted run."""
    flags = ["--epochs", "3", "--image-size", "64", "--batch-size", "16", "--workers", "0", "--device", "cpu"]

    def command(folder: str) -> list[str]:
        return [sys.executable, "-m", "shvit", "train", str(colours), "--output", str(tmp_path / folder), *flags]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command("whole"), capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "next: shvit export --model" in done.stdout
    log = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    assert log[0].startswith("epoch,step,loss")
    assert yaml.safe_load((tmp_path / "whole" / "recipe.yaml").read_text())["epochs"] == 3

    process = subprocess.Popen(command("part"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "part" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused = subprocess.run(command("part"), capture_output=True, text=True, timeout=300, env=environment)
    assert refused.returncode == 2
    assert "holds a run already; add --resume auto" in refused.stderr
    again = subprocess.run(
        [*command("part"), "--resume", "auto"], capture_output=True, text=True, timeout=300, env=environment
    )
    assert again.returncode == 0, again.stderr
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(first[name], second[name]) for name in first)
