from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from shvit.card import ClassInfo
from shvit.cli.main import main
from shvit.data import Augmentation, open_dataset
from shvit.data.loader import normalize, training_loader
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import TrainTransform
from shvit.errors import CheckpointError, DataError
from shvit.models import create_model, save_checkpoint
from shvit.training import Distillation, Optimizer, Recipe, fit, setup
from shvit.training.distillation import (
    LiveTeacher,
    LogitsCard,
    PrecomputedTeacher,
    distillation_loss,
    load_teacher,
    teacher_targets,
)
from shvit.training.precompute import TeacherExecution, precompute_logits
from shvit.training.recipe import Execution

from ..conftest import PATIENCE

NAME = "test_efficientnet"
"""timm's smallest of the kind: 0.4 million weights, a normalisation of its own, 1000 classes."""
RECIPE = Recipe(image_size=64, epochs=1, batch_size=8, optimizer=Optimizer(lr=2e-2, warmup_epochs=0.2), ema_decay=0.5)
HERE = TeacherExecution(workers=0, batch_size=8)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    network = timm.create_model(NAME)
    nn.init.normal_(network.classifier.weight, std=20)  # fresh features are small; logits are not
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def logits(colours, weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("logits")
    images = open_dataset(colours, "train")
    teacher = load_teacher(NAME, weights, images.classes, size=64)
    precompute_logits(teacher, images, folder, 2, RECIPE.augmentation, seed=0, execution=HERE)
    return folder


def classes(*labels: str, wnids: tuple[str | None, ...] | None = None) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(i, label, wnids[i] if wnids else None) for i, label in enumerate(labels))


class DeitLoss(nn.Module):
    """DeiT's ``DistillationLoss`` written anew from its paper (section 4) and code, for two heads.

    The soft loss there is divided by the number of classes too; here, as in the paper, it is not.
    """

    def __init__(self, kind: str, alpha: float, tau: float) -> None:
        super().__init__()
        self.kind, self.alpha, self.tau = kind, alpha, tau

    def forward(self, outputs: torch.Tensor, outputs_kd: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor):
        base = F.cross_entropy(outputs, labels)
        if self.kind == "soft":
            distillation = (
                F.kl_div(
                    F.log_softmax(outputs_kd / self.tau, dim=1),
                    F.log_softmax(teacher / self.tau, dim=1),
                    reduction="sum",
                    log_target=True,
                )
                * self.tau**2
                / len(outputs_kd)
            )
        else:
            distillation = F.cross_entropy(outputs_kd, teacher.argmax(dim=1))
        return base * (1 - self.alpha) + distillation * self.alpha


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 3.0), ("hard", 1.0)])
def test_losses_and_gradients_are_deits(kind, temperature):
    torch.manual_seed(0)
    outputs, teacher = torch.randn(2, 6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    labels = torch.randint(9, (6,))
    values, gradients = [], []
    for ours in (True, False):
        head, head_dist = (each.clone().requires_grad_() for each in outputs)
        if ours:
            targets = teacher_targets(teacher, kind, temperature)
            loss = 0.5 * F.cross_entropy(head, labels) + 0.5 * distillation_loss(head_dist, targets, temperature)
            soft = (teacher / temperature).softmax(-1)
            entropy = -(soft * soft.log()).sum(-1).mean() * temperature**2 if kind == "soft" else 0
            loss = loss - 0.5 * entropy
        else:
            loss = DeitLoss(kind, 0.5, temperature)(head, head_dist, teacher, labels)
        loss.backward()
        values.append(loss.detach())
        gradients.append(torch.stack([head.grad, head_dist.grad]))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_hard_targets_are_labels_at_any_temperature():
    logits = torch.tensor([[0.1, 2.0, 1.9], [3.0, -1.0, 0.0]], dtype=torch.float16)
    for temperature in (0.5, 4.0):
        targets = teacher_targets(logits, "hard", temperature)
        assert targets.dtype == logits.dtype
        assert targets.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("size", [64, 96])
def test_a_teacher_has_its_own_normalisation_and_size(colours, tmp_path, size):
    """What the student is given, made into what the whole timm network wants, gives the logits of our classes."""
    images = open_dataset(colours, "train")
    network = timm.create_model("tf_efficientnet_lite0")
    nn.init.normal_(network.classifier.weight)
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    teacher = load_teacher("tf_efficientnet_lite0", tmp_path / "lite0.pth", images.classes, size=size)
    assert teacher.mean == teacher.std == (0.5, 0.5, 0.5)
    pixels = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    wanted = pixels.permute(0, 3, 1, 2) / 255
    wanted = wanted * 2 - 1
    if size != 64:
        wanted = F.interpolate(wanted, (size, size), mode="bicubic", antialias=True)
    rows = [timm.data.ImageNetInfo().label_names().index(each.wnid) for each in images.classes]
    with torch.no_grad():
        expected = network.eval()(wanted)[:, rows]
    live = LiveTeacher(teacher)
    torch.testing.assert_close(live.logits(normalize(pixels)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shape", "inner"), [((64, 128), (32, 64)), ((96, 48), (64, 32)), ((1, 200), (1, 64))])
def test_images_that_are_not_square_are_in_the_middle_of_the_teachers_square(weights, shape, inner):
    teacher = load_teacher(NAME, weights, classes("a", wnids=("n01443537",)), size=64)
    shown = teacher.adapt(torch.ones(1, 3, *shape))
    mean = teacher.adapt(torch.ones(1, 3, 64, 64))[0, :, 0, 0]
    (rows, columns), (top, left) = inner, ((64 - side) // 2 for side in inner)
    expected = torch.zeros(1, 3, 64, 64)
    expected[:, :, top : top + rows, left : left + columns] = mean[:, None, None]
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-4)


def test_weights_by_name_in_order_and_of_other_classes(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    image = torch.randn(1, 3, 64, 64)
    by_name = load_teacher(NAME, weights, classes("a", wnids=("n01443537",)), size=64)
    save_file(state, tmp_path / "named.safetensors")
    safe = load_teacher(NAME, tmp_path / "named.safetensors", classes("a", wnids=("n01443537",)), size=64)
    renamed = {f"other{i}": tensor for i, tensor in enumerate(state.values()) if tensor.ndim}
    torch.save(renamed, tmp_path / "renamed.pth")
    in_order = load_teacher(NAME, tmp_path / "renamed.pth", classes("a", wnids=("n01443537",)), size=64)
    assert torch.equal(by_name(image), in_order(image))
    assert torch.equal(by_name(image), safe(image))

    network = timm.create_model(NAME, num_classes=3)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "tuned.pth")
    tuned = load_teacher(NAME, tmp_path / "tuned.pth", classes("cat", "dog", "fish"), size=64)
    torch.testing.assert_close(tuned(image), network.eval()(tuned.adapt(image)))
    with pytest.raises(DataError, match=r"does not know 2 of the 2 classes, such as 'cat'; it has 3"):
        load_teacher(NAME, tmp_path / "tuned.pth", classes("cat", "dog"), size=64)
    assert len({by_name.weights, tuned.weights}) == 2


def test_wrong_teachers_are_refused_in_one_line(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    one = classes("a", wnids=("n01443537",))

    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    (tmp_path / "harmful.pth").write_bytes(pickle.dumps({"model": Harm()}, protocol=2))
    torch.save(dict(list(state.items())[:-1]), tmp_path / "short.pth")
    torch.save({**state, "conv_stem.weight": torch.zeros(3, 3)}, tmp_path / "shape.pth")
    save_file({f"other{i}": tensor for i, tensor in enumerate(state.values())}, tmp_path / "renamed.safetensors")
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:3000])
    for name, file, message in (
        ("test_efficientnett", None, r"neither a timm model nor a file; did you mean test_efficientnet\w*\?"),
        (NAME, tmp_path / "gone.pth", r"gone\.pth: no such file"),
        (NAME, tmp_path / "harmful.pth", r"harmful\.pth: cannot be read as a state dict"),
        (NAME, tmp_path / "cut.pth", r"cut\.pth: cannot be read as a state dict"),
        (NAME, tmp_path / "short.pth", r"short\.pth: expected \d+ tensors of the teacher, got \d+"),
        (NAME, tmp_path / "shape.pth", r"shape\.pth: conv_stem\.weight should have the shape"),
        (NAME, tmp_path / "renamed.safetensors", r"expected timm's names .* there is no conv_stem\.weight"),
        ("shvit_s1", weights, "takes no weights file"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            load_teacher(name, file, one, size=64)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("two_heads", [False, True])
def test_a_shvit_checkpoint_teaches_the_same_classes_in_another_order(tmp_path, two_heads):
    torch.manual_seed(0)
    model = create_model("shvit_s1", num_classes=3, distillation=two_heads)
    for head in (model.head, model.head_dist):
        if head is not None:
            nn.init.normal_(head.linear.weight)
    own = [{"class_id": i, "label": label, "wnid": None} for i, label in enumerate(("cat", "dog", "fish"))]
    metadata = {"classes": own, "preprocessing": {"image_size": [96, 96], "crop_ratio": 1.0}}
    file = tmp_path / "run" / "best.safetensors"
    file.parent.mkdir()
    save_checkpoint(model, file, metadata=metadata)
    teacher = load_teacher(str(file), None, classes("fish", "cat"))
    assert (teacher.size, teacher.name) == (96, "run/best.safetensors")
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.eval()(images)[:, [2, 0]], rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="does not know 1 of the 2 classes, such as 'bird'"):
        load_teacher(str(file), None, classes("cat", "bird"))


def test_classes_are_matched_by_wordnet_id_before_their_label(weights):
    """tench by its id though it is called goldfish here; goldfish by ImageNet's own description."""
    mixed = classes("goldfish, Carassius auratus", "goldfish, Carassius auratus", wnids=("n01440764", None))
    teacher = load_teacher(NAME, weights, mixed, size=64)
    whole = torch.load(weights, weights_only=True)["classifier.weight"]
    assert torch.equal(teacher.head.weight.detach(), whole[:2])


def test_a_precomputed_teacher_says_what_the_live_one_would(colours, weights, logits):
    """The student's batch at the teacher's size, run through the teacher, gives the logits that were stored."""
    images = open_dataset(colours, "train")
    stored = PrecomputedTeacher(logits, images, RECIPE.augmentation, seed=0)
    live = LiveTeacher(load_teacher(NAME, weights, images.classes, size=64))
    sampler = EpochSampler(len(images), 4, seed=0, epoch=3)
    transform = TrainTransform(RECIPE.augmentation, 64, seed=0, crops_only=True)
    batch = next(iter(training_loader(images, transform, sampler, workers=0, views=stored.views)))
    expected = live.logits(normalize(batch.images))
    assert expected.std() > 0.02, "the test would show nothing"
    torch.testing.assert_close(stored.logits(batch.indices, epoch=3), expected, rtol=2e-2, atol=2e-2)


def test_the_card_tells_how_often_the_teacher_is_right(colours, logits):
    images = open_dataset(colours, "train")
    rows = [np.load(logits / f"view{view}.npy") for view in range(2)]
    assert all(each.dtype == np.float16 for each in rows)
    card = LogitsCard.load(logits)
    assert card.complete
    assert card.top1 == np.mean([each.argmax(1) == images.labels for each in rows])


def test_training_with_a_teacher_precomputed_and_live(colours, weights, logits, tmp_path):
    for name, plan in (
        ("stored", Distillation(logits=str(logits))),
        ("live", Distillation(teacher=NAME, teacher_weights=str(weights))),
    ):
        recipe = replace(RECIPE, distillation=plan)
        train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
        run = setup(recipe, train, val, tmp_path / name, Execution(device="cpu", workers=0))
        losses = []
        fit(run, lambda progress, figures, losses=losses: losses.append(figures.get("loss", 0)))
        # Two parts, the teacher's times the temperature squared: more than cross-entropy alone.
        assert losses[0] > 0.8 * 4 * np.log(3) * 0.8


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("teacher", ["stored", "live"])
def test_the_loop_teaches_two_heads_as_the_reference(colours, weights, logits, tmp_path, kind, teacher):
    """The first step's loss, from what the network was given and what it returned.

    A live teacher is shown the mixed images; with alpha 1 their mixed labels do not matter.
    """
    live = {"teacher": NAME, "teacher_weights": str(weights)} if teacher == "live" else {"logits": str(logits)}
    alpha, temperature = (1.0, 2.0) if teacher == "live" else (0.5, 2.0)
    plan = Distillation(kind=kind, two_heads=True, alpha=alpha, temperature=temperature, **live)
    recipe = replace(RECIPE, distillation=plan, label_smoothing=0.0, mixup=0.8 if teacher == "live" else 0.0)
    images = open_dataset(colours, "train")
    run = setup(recipe, images, open_dataset(colours, "val"), tmp_path, Execution(device="cpu", workers=0))
    seen = []
    run.network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].clone(), output)))

    class StopError(Exception):
        pass

    def stop(progress, figures):
        seen.append(figures["loss"])
        raise StopError

    with pytest.raises(StopError):
        fit(run, stop)
    (given, output), loss = seen
    indices = torch.tensor([key.index for key in next(iter(EpochSampler(len(images), 8, seed=0, epoch=0)))])
    said = run.teacher.logits(given) if teacher == "live" else run.teacher.logits(indices, epoch=0)
    deit = DeitLoss(kind, alpha, temperature)
    with torch.no_grad():
        expected = deit(output.logits, output.distilled, said, torch.from_numpy(images.labels)[indices])
    if kind == "soft":
        soft = (said / temperature).softmax(-1)
        expected -= alpha * (soft * soft.log()).sum(-1).mean() * temperature**2
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_logits_of_other_data_or_crops_are_refused(colours, logits, tmp_path):
    images = open_dataset(colours, "train")
    with pytest.raises(DataError, match="made with seed = 0, this run has 1"):
        PrecomputedTeacher(logits, images, RECIPE.augmentation, seed=1)
    with pytest.raises(DataError, match=r"augmentation\.crop_scale"):
        PrecomputedTeacher(logits, images, Augmentation(crop_scale=(0.1, 1.0)), seed=0)
    with pytest.raises(DataError, match="images = 48, this run has 12"):
        PrecomputedTeacher(logits, open_dataset(colours, "val"), RECIPE.augmentation, seed=0)
    with pytest.raises(DataError, match="not the card of precomputed logits"):
        PrecomputedTeacher(colours, images, RECIPE.augmentation, seed=0)
    replace(LogitsCard.load(logits), complete=False).save(tmp_path)
    with pytest.raises(DataError, match="was stopped half-way; start the same shvit distill precompute again"):
        PrecomputedTeacher(tmp_path, images, RECIPE.augmentation, seed=0)


def test_an_output_folder_of_something_else_is_refused(colours, weights, logits, tmp_path):
    images, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    torch.save(timm.create_model(NAME).state_dict(), tmp_path / "other.pth")
    teacher = load_teacher(NAME, weights, images.classes, size=64)
    other = load_teacher(NAME, tmp_path / "other.pth", images.classes, size=64)
    before = {path: path.stat().st_mtime_ns for path in logits.iterdir()}
    for network, dataset, seed, size, message in (
        (teacher, images, 1, 64, r"made with seed = 0, this run has 1; give another output folder"),
        (other, images, 0, 64, "digest of the teacher's weights"),
        (teacher, val, 0, 64, "images = 48, this run has 12"),
        (teacher, images, 0, 96, "side of the teacher's images = 64, this run has 96"),
    ):
        with pytest.raises(DataError, match=message):
            precompute_logits(
                replace(network, size=size), dataset, logits, 2, RECIPE.augmentation, seed, execution=HERE
            )
    assert before == {path: path.stat().st_mtime_ns for path in logits.iterdir()}
    (tmp_path / "features0.npy").touch()
    with pytest.raises(DataError, match=r"no logits\.json says whose"):
        precompute_logits(teacher, images, tmp_path, 2, RECIPE.augmentation, 0, execution=HERE)


def test_more_views_cost_only_the_new_ones(colours, weights, logits, tmp_path):
    images = open_dataset(colours, "train")
    folder = tmp_path / "logits"
    shutil.copytree(logits, folder)
    teacher = load_teacher(NAME, weights, images.classes, size=64)
    seen = []
    card = precompute_logits(teacher, images, folder, 3, RECIPE.augmentation, 0, execution=HERE, on_images=seen.append)
    assert seen == [96, *range(104, 145, 8)]
    assert card.views == 3
    assert (folder / "view0.npy").read_bytes() == (logits / "view0.npy").read_bytes()
    assert len({(folder / f"view{view}.npy").read_bytes() for view in range(3)}) == 3
    seen.clear()
    assert precompute_logits(teacher, images, folder, 3, RECIPE.augmentation, 0, on_images=seen.append) == card
    assert seen == [144], "all was there"


def test_a_damaged_file_is_refused_and_made_again(colours, weights, logits, tmp_path):
    images = open_dataset(colours, "train")
    folder = tmp_path / "logits"
    shutil.copytree(logits, folder)
    teacher = load_teacher(NAME, weights, images.classes, size=64)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("view1.npy", "features0.npy"):
        content = bytearray(whole[name])
        content[-3] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(
        DataError, match=r"view1\.npy: damaged: .*SHA-256.*; the same shvit distill precompute makes it"
    ):
        PrecomputedTeacher(folder, images, RECIPE.augmentation, 0)
    with (
        pytest.warns(UserWarning, match="view1.npy: damaged"),
        pytest.warns(UserWarning, match="features0.npy: damaged"),
    ):
        precompute_logits(teacher, images, folder, 2, RECIPE.augmentation, 0, execution=HERE)
    assert whole == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "view0.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"view0\.npy: damaged"):
        PrecomputedTeacher(folder, images, RECIPE.augmentation, 0)
    (folder / "view0.npy").write_bytes(whole["view0.npy"])
    card = json.loads(whole["logits.json"])
    (folder / "logits.json").write_text(json.dumps({key: value for key, value in card.items() if key != "digests"}))
    assert PrecomputedTeacher(folder, images, RECIPE.augmentation, 0).views == 2, "an older folder"
    for changes in ({"views": 0}, {"views": "2"}, {"digests": 3}, {"images": None}):
        (folder / "logits.json").write_text(json.dumps({**card, **changes}))
        with pytest.raises(DataError, match="not the card of precomputed logits"):
            PrecomputedTeacher(folder, images, RECIPE.augmentation, 0)


def test_broken_images_have_no_logits_and_too_many_stop_it(colours, weights, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(colours, data)
    broken = sorted(data.glob("train/*/*.png"))[10]
    broken.write_bytes(broken.read_bytes()[:60])
    images = open_dataset(data, "train")
    teacher = load_teacher(NAME, weights, images.classes, size=64)
    with pytest.raises(DataError, match="1 of 48 images are broken"):
        precompute_logits(teacher, images, tmp_path / "a", 1, RECIPE.augmentation, 0, execution=HERE)
    tolerant = replace(HERE, broken_share=0.1)
    card = precompute_logits(
        teacher, images, tmp_path / "b", 1, RECIPE.augmentation, 0, fit_head=True, execution=tolerant
    )
    rows = np.load(tmp_path / "b" / "view0.npy")
    place = [images.source(i) for i in range(len(images))].index(str(broken))
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [place]
    assert card.broken == 1
    others = np.delete(np.arange(48), place)
    assert card.top1 == pytest.approx(np.mean(rows[others].argmax(1) == images.labels[others]))


def test_fitting_the_teachers_head_helps_and_can_be_repeated(colours, weights, logits, tmp_path):
    images = open_dataset(colours, "train")
    for name in ("a", "b"):
        torch.rand(3)  # the process's random state is another each time
        shutil.copytree(logits, tmp_path / name)
        teacher = load_teacher(NAME, weights, images.classes, size=64)
        precompute_logits(teacher, images, tmp_path / name, 2, RECIPE.augmentation, 0, fit_head=True, execution=HERE)
    before, after, again = (np.load(each / "view0.npy") for each in (logits, tmp_path / "a", tmp_path / "b"))
    loss = [
        F.cross_entropy(torch.from_numpy(rows).float(), torch.from_numpy(images.labels)) for rows in (before, after)
    ]
    assert loss[1] < loss[0]
    assert np.array_equal(after, again)


KILLED_IN_THE_SECOND_VIEW = """
import os, signal, sys
from shvit.cli.main import main
from shvit.training import precompute

append = precompute._FeaturesFile.append

def append_and_die(file, rows, start):
    append(file, rows, start)
    if file.path.name == "features1.npy" and start == 12:
        os.kill(os.getpid(), signal.SIGKILL)

precompute._FeaturesFile.append = append_and_die
main(sys.argv[1:])
"""
"""The command, killed as ``kill -9`` does once 16 images of the second view are written."""


def test_killed_in_the_middle_of_a_view_it_goes_on(colours, weights, tmp_path, capsys, monkeypatch):
    """kill -9 while the second view grows; the same command again: what an uninterrupted run writes."""

    def flags(folder: str) -> list[str]:
        teacher = ["--teacher", NAME, "--teacher-weights", str(weights), "--views", "3", "--fit-head"]
        return [
            *("distill", "precompute", str(colours), *teacher, "--output", str(tmp_path / folder)),
            *("--batch-size", "4", "--workers", "0", "--report-every", "0"),
        ]

    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_SECOND_VIEW, *flags("killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
    )
    assert done.returncode == -signal.SIGKILL
    partial = tmp_path / "killed" / "features1.partial"
    assert not json.loads((tmp_path / "killed" / "logits.json").read_text())["complete"]
    with partial.open("ab") as file:
        file.write(b"half a row")  # as a kill in the middle of a write leaves it

    assert main(flags("killed")) == 0
    said = capsys.readouterr()
    assert "going on: 64 of 144 images are done" in said.err
    assert "\n68 of 144 images, " in said.err
    assert " images/s, " in said.err
    assert "the teacher is right on " in said.out
    assert f"next: shvit train {colours} --distillation.logits {tmp_path / 'killed'} --seed 0" in said.out

    assert main(flags("whole")) == 0
    for file in [f"{kind}{view}.npy" for kind in ("features", "view") for view in range(3)]:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert main([*flags("whole"), "--seed", "7"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("made with seed = 0, this run has 7; give another output folder, or delete it\n")


@pytest.mark.parametrize("size", [0, -1, 2049, 10**9])
def test_a_size_that_no_teacher_is_given_is_refused(size):
    with pytest.raises(
        CheckpointError, match=rf"^teacher {NAME}: expected images of 1 to 2048 pixels a side, got {size}$"
    ):
        load_teacher(NAME, None, classes("cat"), size=size)


def test_of_a_folder_without_splits_the_teacher_sees_what_the_student_trains_on(colours, weights, tmp_path, capsys):
    """The command that ``precompute`` prints at its end runs as it stands."""
    teacher = ["--teacher", NAME, "--teacher-weights", str(weights), "--views", "1", "--batch-size", "16"]
    folder = ["--output", str(tmp_path / "logits"), "--workers", "0", "--seed", "3", "--val-share", "0.25"]
    assert main(["distill", "precompute", str(colours / "train"), *teacher, *folder]) == 0
    said = capsys.readouterr()
    assert "of 36 images" in said.out
    next_command = said.out.splitlines()[-1].removeprefix("next: shvit ")
    small = ["--model", "shvit_s1", "--image_size", "32", "--batch_size", "12", "--epochs", "1", "--workers", "0"]
    assert main([*shlex.split(next_command), *small, "--output", str(tmp_path / "run")]) == 0
