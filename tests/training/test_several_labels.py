"""Networks that tell any number of labels: losses, training, distillation, going on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from shvit.calibration.calibrate import calibrate
from shvit.calibration.fitting import CalibrationOptions
from shvit.card import ClassInfo
from shvit.data import Augmentation, open_dataset
from shvit.data.targets import for_task
from shvit.errors import ArgumentError, DataError
from shvit.evaluation import measure as evaluation
from shvit.evaluation.export import ExportOptions, export
from shvit.evaluation.measure import EvaluationOptions
from shvit.exporting import Int8Precision
from shvit.modelfile.card import card_for
from shvit.models import read_checkpoint
from shvit.models.checkpoints import load_model, save_checkpoint
from shvit.models.reparam import folded_network
from shvit.predicting.classifier import Classifier
from shvit.runs.run_folder import read_run, summarize
from shvit.training import Distillation, Execution, Optimizer, Recipe, evaluate, fit, resume, setup
from shvit.training.distillation import LiveTeacher, load_teacher
from shvit.training.objectives import SeveralLabels, asymmetric_loss, begin_with_frequencies
from shvit.training.precompute import TeacherExecution, precompute_logits
from shvit.training.recipe import MultiLabelLoss
from shvit.training.train import recipe_for, train

from .conftest import drive, losses
from .driver import small_shvit

RECIPE = Recipe(
    image_size=64,
    epochs=2,
    batch_size=8,
    optimizer=Optimizer(lr=1e-2, lr_batch_size=0),
    augmentation=Augmentation(crop_scale=(0.9, 1.0)),
    label_smoothing=0.0,
    ema_decay=0.5,
)
HERE = Execution(device="cpu", workers=0)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def prepare(spots, folder, recipe=RECIPE, execution=HERE):
    return setup(recipe, open_dataset(spots, "train"), open_dataset(spots, "val"), folder, execution, small_shvit())


def test_the_asymmetric_loss_is_the_papers():
    by = MultiLabelLoss("asymmetric", gamma_negative=3, gamma_positive=1, margin=0.1)
    logits = torch.tensor([[-2.0, 0.3, 4.0]], requires_grad=True)
    for target in ([1.0, 0.0, 1.0], [0.0, 1.0, 0.0]):
        found = asymmetric_loss(logits, torch.tensor([target]), by)[0].tolist()
        for each, wanted, loss in zip(logits[0].tolist(), target, found, strict=True):
            p = 1 / (1 + math.exp(-each))
            shifted = max(p - 0.1, 0)
            positive, negative = (1 - p) ** 1 * math.log(p), shifted**3 * math.log(1 - shifted)
            assert loss == pytest.approx(-positive if wanted else -negative, rel=1e-5)
    extreme = torch.tensor([[-90.0, 90.0, 90.0]], requires_grad=True)
    asymmetric_loss(extreme, torch.tensor([[1.0, 0.0, 1.0]]), replace(by, margin=0.0)).sum().backward()
    assert torch.isfinite(extreme.grad).all()


def test_the_asymmetric_loss_without_focus_is_binary_cross_entropy():
    recipe = replace(RECIPE, label_smoothing=0.2)
    flat = replace(recipe, multi_label=MultiLabelLoss("asymmetric", gamma_negative=0, gamma_positive=0, margin=0))
    logits, labels = torch.randn(4, 5), torch.rand(4, 5) > 0.5
    plain, other = SeveralLabels(recipe, None), SeveralLabels(flat, None)
    targets = plain.targets(labels)
    assert targets.unique().tolist() == pytest.approx([0.1, 0.9])
    assert float(plain.loss(logits, targets)) == pytest.approx(float(other.loss(logits, targets)), rel=1e-5)
    weights = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0])
    alone = nn.functional.binary_cross_entropy_with_logits(logits[:, 2], targets[:, 2])
    assert float(SeveralLabels(recipe, weights).loss(logits, targets)) == pytest.approx(2 * float(alone), rel=1e-5)


def test_a_teacher_asks_for_its_sigmoid():
    logits = torch.tensor([[-2.0, 4.0]])
    soft = SeveralLabels(replace(RECIPE, distillation=Distillation(temperature=2.0)), None)
    assert soft.teacher_targets(logits).tolist()[0] == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-2))])
    hard = SeveralLabels(replace(RECIPE, distillation=Distillation(kind="hard")), None)
    assert hard.teacher_targets(logits).tolist() == [[0, 1]]
    student = logits.clone().requires_grad_()
    soft.distillation_loss(student, soft.teacher_targets(logits)).backward()
    assert student.grad.abs().max() < 1e-6  # it could not be better


def test_a_fresh_head_begins_with_how_frequent_labels_are(spots, tmp_path):
    labels = np.zeros((99, 3), dtype=bool)
    labels[:9, 0] = labels[:, 2] = True
    head = nn.Linear(4, 3)
    begin_with_frequencies(head, labels)
    assert head.bias.sigmoid().tolist() == pytest.approx([0.095, 0.005, 0.995])
    run = setup(RECIPE, open_dataset(spots, "train"), open_dataset(spots, "val"), tmp_path / "a", HERE)
    begun = run.network.head.linear.bias.detach().clone()
    expected = (run.train.labels.sum(0) + 0.5) / (len(run.train) + 1)
    assert begun.sigmoid().tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    with torch.no_grad():
        run.network.head.linear.bias.fill_(0.25)  # a head that was trained is left as it is
    file = tmp_path / "trained.safetensors"
    save_checkpoint(run.network, file)
    loaded = replace(RECIPE, pretrained=str(file))
    again = setup(loaded, run.train, run.val, tmp_path / "b", HERE)
    assert again.network.head.linear.bias.unique().tolist() == [0.25]


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_it_learns_and_says_what_it_is(spots, tmp_path, loss):
    recipe = replace(RECIPE, epochs=12, multi_label=MultiLabelLoss(loss))
    run = prepare(spots, tmp_path, recipe)
    before = evaluate(run.evaluated, run.val, run.preprocessing, 8, 0)
    seen = []
    progress = fit(run, lambda _, figures: seen.append(figures))
    validations = [each for each in seen if "val_map" in each]
    assert [set(each) for each in validations] == [{"val_map", "val_f1", "val_loss"}] * 12
    after = evaluate(run.evaluated, run.val, run.preprocessing, 8, 0)
    assert after.mean_average_precision > max(0.7, before.mean_average_precision + 0.1)
    assert progress.best_score == validations[progress.best_epoch - 1]["val_map"]
    stored = read_checkpoint(tmp_path / "best.safetensors")
    assert stored.metadata["task"] == "multi_label"
    model, checkpoint = load_model(tmp_path / "best.safetensors")
    card = card_for(folded_network(model), checkpoint, "spots")
    assert card.task == "multi_label"
    assert [each.name for each in card.metrics] == ["map", "f1"]
    assert [each.label for each in card.classes] == ["blue", "green", "red"]


def test_the_best_epoch_is_chosen_by_map(spots, tmp_path):
    trained = train(spots, tmp_path / "run", recipe=replace(RECIPE, epochs=3), execution=HERE)
    assert trained.top1 is None
    assert 0 < trained.mean_average_precision <= 1
    assert f"mean_average_precision={trained.mean_average_precision:.4f}" in repr(trained)
    record = read_run(tmp_path / "run")
    summary = summarize(record)
    assert (summary.best_top1, summary.best_map) == (None, trained.mean_average_precision)
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0


def test_from_weights_to_a_file_in_8_bits(spots, tmp_path):
    run = prepare(spots, tmp_path / "run", replace(RECIPE, epochs=1))
    fit(run)
    file = tmp_path / "several.onnx"
    options = ExportOptions(precision="int8", calibration=spots, max_loss=100)
    report = export(tmp_path / "run" / "best.safetensors", file, options)
    assert isinstance(report.int8, Int8Precision)
    assert [each.name for each in report.card.metrics] == ["map", "f1"]
    found = evaluation.evaluate(file, spots, EvaluationOptions(workers=0))
    assert found.mean_average_precision == pytest.approx(report.int8.mean_average_precision, abs=1e-4)
    calibrated = calibrate(file, spots, tmp_path / "calibrated.onnx", CalibrationOptions(split="train", workers=0))
    assert calibrated.card.task == "multi_label"
    assert len(calibrated.decision.thresholds) == 3
    (result,) = Classifier(tmp_path / "calibrated.onnx").predict([spots / "0.png"])
    assert result.task == "multi_label"
    assert all(each.accepted is not None for each in result.predictions)


def test_killed_it_ends_with_the_same_bits(spots, tmp_path):
    options = {
        "image_size": 64,
        "epochs": 2,
        "batch_size": 8,
        "mixup": 0.2,
        "cutmix": 1.0,
        "class_weights": True,
        "ema_decay": 0.5,
        "execution": {"checkpoint_every_steps": 2},
    }
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert drive(spots, whole, options).wait(120) == 0
    assert drive(spots, part, {**options, "kill_at": 9}).wait(120) != 0
    assert drive(spots, part, options).wait(120) == 0
    assert losses(part) == losses(whole)
    one, other = (load_file(each / "last.safetensors") for each in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_before_several_labels_is_resumed(colours, tmp_path):
    recipe = Recipe(image_size=64, epochs=1, batch_size=8)
    images = open_dataset(colours, "train"), open_dataset(colours, "val")
    run = setup(recipe, *images, tmp_path, HERE, small_shvit())
    fit(run)
    (file,) = (tmp_path / "checkpoints").glob("step-*.pt")
    state = torch.load(file, weights_only=True)
    for key in ("task", "multi_label"):
        del state["recipe"][key]
    state["progress"]["best_top1"] = state["progress"].pop("best_score")
    torch.save(state, file)
    again = setup(recipe, *images, tmp_path, HERE, small_shvit())
    assert resume(again)
    assert again.progress.best_score == run.progress.best_score


def test_stored_and_live_teachers(spots, tmp_path):
    run = prepare(spots, tmp_path / "teacher", replace(RECIPE, epochs=1))
    fit(run)
    file = tmp_path / "teacher" / "last.safetensors"
    images, recipe = run.train, replace(RECIPE, epochs=1)
    here = TeacherExecution(workers=0, batch_size=8)
    teacher = load_teacher(str(file), None, images.classes, task="multi_label")
    for fit_head in (False, True):
        card = precompute_logits(
            teacher, images, tmp_path / f"logits{fit_head}", 1, recipe.augmentation, 0, fit_head, here
        )
        assert (card.top1, card.complete) == (None, True)
        stored = replace(recipe, distillation=Distillation(logits=str(tmp_path / f"logits{fit_head}")))
        fit(prepare(spots, tmp_path / f"stored{fit_head}", stored))
    live = replace(recipe, mixup=0.2, distillation=Distillation(teacher=str(file)))
    run = prepare(spots, tmp_path / "live", live)
    assert isinstance(run.teacher, LiveTeacher)
    fit(run)
    with pytest.raises(DataError, match="its task is multi_label, its student's classification"):
        load_teacher(str(file), None, images.classes, task="classification")


def test_which_task(spots, colours, tmp_path):
    assert recipe_for(spots).label_smoothing == 0
    with pytest.raises(DataError, match="any number of labels, and the task classification"):
        recipe_for(spots, task="classification")
    recipe = replace(RECIPE, task="multi_label", epochs=1)
    run = setup(recipe, open_dataset(colours, "train"), open_dataset(colours, "val"), tmp_path, HERE, small_shvit())
    assert run.train.labels.shape == (48, 3)
    fit(run)
    assert read_checkpoint(tmp_path / "last.safetensors").metadata["task"] == "multi_label"
    with pytest.raises(ArgumentError, match="task: expected one of classification, multi_label, got 'both'"):
        Recipe(task="both")
    for wrong in ({"loss": "hinge"}, {"margin": 1.0}, {"gamma_negative": -1.0}):
        with pytest.raises(ArgumentError, match=f"multi_label.{next(iter(wrong))}"):
            MultiLabelLoss(**wrong)


def test_classes_that_cannot_be_learnt_are_named(spots, tmp_path):
    images = open_dataset(spots, "train")
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    text = (spots / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text)
    for place in range(len(images) + 16):
        (tmp_path / f"{place}.png").symlink_to(spots / f"{place}.png")
    trained = train(tmp_path, tmp_path / "run", recipe=replace(RECIPE, epochs=1), execution=HERE)
    assert any("no images of 1 of the 4 classes, which cannot be learnt: yellow" in note for note in trained.notes)
    assert json.dumps(trained.recipe.multi_label.loss) == '"bce"'


def test_validation_images_without_any_label(tmp_path):
    lines = [f"{place}.png,{'a|b' if place else ''},{'train' if place else 'val'}" for place in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels,split", *lines]))
    for place in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{place}.png")
    with pytest.raises(DataError, match=r"\(val\): none of its 1 validation images has a label"):
        train(tmp_path, tmp_path / "run", recipe=RECIPE, execution=HERE)
    assert not (tmp_path / "run").exists()


def test_one_label_each_as_several_has_as_many_labels_as_images(colours):
    images = for_task(open_dataset(colours, "train"), "multi_label")
    assert images.labels.sum() == len(images)
    assert images.classes == tuple(ClassInfo(each.class_id, each.label, each.wnid) for each in images.classes)
