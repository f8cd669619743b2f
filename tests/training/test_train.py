"""What a run learns, leaves behind, and refuses; recipes in Python."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import shvit
from shvit.card import Preprocessing
from shvit.data import open_dataset
from shvit.data.datasets import open_datasets
from shvit.data.splits import Subset
from shvit.errors import ArgumentError, CheckpointError, DataError
from shvit.models.checkpoints import load_model
from shvit.models.shvit import DropPath, is_channels_last
from shvit.network.training_metadata import stored_preprocessing
from shvit.runs.best import is_better
from shvit.training import Distillation, Execution, Optimizer, Recipe, ValidationResult, evaluate, fit, loop, setup
from shvit.training.defaults import default_recipe
from shvit.training.mixing import mix
from shvit.training.optimizer import build_optimizer, build_schedule
from shvit.training.precision import keep_depthwise_in_float32
from shvit.training.run import preprocessing_of

from ..conftest import PATIENCE
from .conftest import WNIDS, drive
from .driver import small_shvit

RECIPE = Recipe(image_size=64, epochs=2, batch_size=8, optimizer=Optimizer(lr=2e-2, warmup_epochs=0.2), ema_decay=0.5)


def prepare(colours, folder, recipe, network=None):
    torch.set_num_threads(1)
    train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    return setup(recipe, train, val, folder, Execution(device="cpu", workers=0), network)


def test_it_learns_and_leaves_what_the_next_step_needs(colours, tmp_path):
    run = prepare(colours, tmp_path / "run", replace(RECIPE, epochs=4, ema_decay=0))
    seen = []
    progress = fit(run, lambda progress, figures: seen.append(figures))
    losses = [figures["loss"] for figures in seen if "loss" in figures]
    assert len(losses) == 4 * 6
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.2
    assert {path.name for path in run.folder.iterdir()} == {"best.safetensors", "last.safetensors", "checkpoints"}
    model, checkpoint = load_model(run.folder / "best.safetensors")
    assert [each["wnid"] for each in checkpoint.metadata["classes"]] == list(WNIDS)
    assert checkpoint.metadata["recipe"]["epochs"] == 4
    again = evaluate(model, run.val, run.preprocessing, batch_size=5, workers=0)
    assert again.top1 == progress.best_score
    assert again.images == 12


def test_without_the_first_class_validation_scores_what_the_rest_scores_beside_it(colours, tmp_path):
    """The others are folders 0 and 1 of validation then, but outputs 1 and 2 of the network."""
    shutil.copytree(colours, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val" / WNIDS[0])
    torch.set_num_threads(1)
    train, val, _ = open_datasets(tmp_path / "data")
    execution = Execution(device="cpu", workers=0)
    run = setup(replace(RECIPE, epochs=1), train, val, tmp_path / "run", execution)
    progress = fit(run)
    whole = open_dataset(colours, "val")
    rest = Subset(whole, np.flatnonzero(whole.labels > 0))
    model, _ = load_model(run.folder / "best.safetensors")
    found, expected = (evaluate(model, images, run.preprocessing, batch_size=5, workers=0) for images in (val, rest))
    assert found == expected
    assert val.labels.tolist() == [1] * 4 + [2] * 4
    assert (found.top1, found.images) == (progress.best_score, 8)


def test_few_images_choose_by_loss_and_early_stopping_goes_by_the_same(colours, tmp_path, monkeypatch):
    """One of 12 right more is chance: the accuracy would have kept the first epoch and stopped after the third."""
    validations = [(0.5, 2.0), (0.25, 1.5), (0.5, 1.25), (0.25, 1.0), (0.75, 1.5), (0.75, 1.25), (0.75, 0.5)]
    coming = iter(validations)
    monkeypatch.setattr(loop, "evaluate", lambda *_: ValidationResult((now := next(coming))[0], 1.0, now[1], 12))
    recipe = replace(RECIPE, epochs=50, early_stopping=2)
    progress = fit(prepare(colours, tmp_path, recipe, small_shvit()))
    assert (progress.epoch, progress.best_epoch, progress.best_score, progress.best_loss) == (6, 4, 0.25, 1.0)
    tensors = [load_file(tmp_path / f"{name}.safetensors") for name in ("best", "last")]
    assert not all(torch.equal(tensors[0][name], tensor) for name, tensor in tensors[1].items())


@pytest.mark.parametrize(
    ("images", "validations", "best"),
    [
        (20, [(0.5, 2.0), (0.9, 1.5), (0.8, 1.4), (0.9, 1.6)], 3),
        (499, [(0.5, 2.0), (0.9, 1.5), (0.8, 1.4)], 3),
        (500, [(0.5, 2.0), (0.9, 1.5), (0.8, 1.4)], 2),
        (10_000, [(0.9, 2.0), (0.9, 1.5), (0.9, 1.6), (0.8, 0.1)], 2),
        (10_000, [(0.0, 2.0), (0.0, 2.0)], 1),
        (20, [(0.0, 3.0)], 1),
        (20, [(0.5, None), (0.5, 2.0), (0.6, 2.5)], 2),  # the first is of a checkpoint that did not keep its loss
        (20, [(0.5, None), (0.4, 2.0)], 1),
    ],
)
def test_the_best_epoch(images, validations, best):
    top1, loss, epoch = 0.0, None, 0
    for number, (new_top1, new_loss) in enumerate(validations, start=1):
        if is_better(new_top1, new_loss, top1, loss, images):
            top1, loss, epoch = new_top1, new_loss, number
    assert epoch == best


def test_class_weights_make_rare_classes_count_as_much(colours, tmp_path):
    class Unbalanced:
        """Only 4 of the last class's 16."""

        def __init__(self):
            images = open_dataset(colours, "train")
            kept = [index for index in range(len(images)) if images.labels[index] < 2 or index % 4 == 0]
            self.name, self.classes, self.labels = images.name, images.classes, images.labels[kept]
            self.read = lambda index: images.read(kept[index])
            self.source = lambda index: images.source(kept[index])

        def __len__(self):
            return len(self.labels)

    execution = Execution(device="cpu", workers=0)
    run = setup(
        replace(RECIPE, class_weights=True),
        Unbalanced(),
        open_dataset(colours, "val"),
        tmp_path,
        execution,
        small_shvit(),
    )
    assert run.objective.weights.tolist() == pytest.approx([0.75, 0.75, 3.0])
    assert float(run.objective.weights[torch.from_numpy(run.train.labels)].mean()) == pytest.approx(1)


def test_a_batch_of_broken_images_alone_does_not_stop_the_run(colours, tmp_path):
    """Weights of that step stay as they were but for the optimizer's momentum; the loss is not NaN."""

    class Broken:
        def __init__(self):
            images = open_dataset(colours, "train")
            self.name, self.classes, self.labels, self.source = (
                images.name,
                images.classes,
                images.labels,
                images.source,
            )
            self.read = lambda index: b"not an image"

        def __len__(self):
            return len(self.labels)

    run = setup(
        replace(RECIPE, epochs=1, broken_share=0.99),
        Broken(),
        open_dataset(colours, "val"),
        tmp_path,
        Execution(device="cpu", workers=0),
        small_shvit(),
    )
    seen = []
    with pytest.raises(DataError, match="48 of 48 images are broken"):
        fit(run, lambda _, figures: seen.append(figures["loss"]))
    assert seen == [0.0] * 5
    assert all(parameter.isfinite().all() for parameter in run.network.parameters())


def test_a_few_broken_images_are_left_out_and_the_rest_is_learnt(colours, tmp_path):
    images = open_dataset(colours, "train")
    read = images.read
    images.read = lambda index: b"" if index == 5 else read(index)
    execution = Execution(device="cpu", workers=0)
    recipe = replace(RECIPE, broken_share=0.05)
    run = setup(recipe, images, open_dataset(colours, "val"), tmp_path / "skipped", execution, small_shvit())
    fit(run)
    assert list(run.broken.found) == [5]
    run = setup(
        replace(recipe, broken_share=0.01), images, open_dataset(colours, "val"), tmp_path / "refused", execution
    )
    with pytest.raises(DataError, match=r"1 of 48 images are broken.*shvit data check"):
        fit(run)


def test_one_readable_image_of_a_batch_is_learnt_from(colours, tmp_path):
    """Batch normalisation over one image has no variance."""
    images = open_dataset(colours, "train")
    read = images.read
    images.read = lambda index: read(index) if index == 5 else b""
    recipe, execution = replace(RECIPE, epochs=1, batch_size=48, broken_share=0.99), Execution("cpu", workers=0)
    run = setup(recipe, images, open_dataset(colours, "val"), tmp_path, execution, small_shvit())
    seen = []
    fit(run, lambda _, figures: seen.append(figures.get("loss")))
    assert len(run.broken.found) == 47
    assert 0 < seen[0] < 1  # a 48th of the image's own loss, as in any batch
    assert all(parameter.isfinite().all() for parameter in run.network.parameters())


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (3, 2), (4, 4)])
def test_batches_of_one_are_refused(colours, tmp_path, batch_size, devices):
    train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    execution = Execution("cpu", devices=devices)
    with pytest.raises(ArgumentError, match=rf"two images or more: give --batch-size {2 * devices} or more"):
        setup(replace(RECIPE, batch_size=batch_size), train, val, tmp_path, execution)


def test_data_that_does_not_fit_is_refused(colours, tmp_path):
    with pytest.raises(DataError, match="48 images do not fill one batch of 64"):
        prepare(colours, tmp_path, replace(RECIPE, batch_size=64))


def test_a_checkpoint_of_another_architecture_is_refused(colours, tmp_path):
    run = prepare(colours, tmp_path / "s1", replace(RECIPE, epochs=1))
    fit(run)
    weights = str(tmp_path / "s1" / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"best\.safetensors: .*the file is of shvit_s1"):
        prepare(colours, tmp_path / "s2", replace(RECIPE, model="shvit_s2", pretrained=weights))


def test_bfloat16_trains_with_activations_of_16_bits(colours, tmp_path):
    run = prepare(colours, tmp_path, replace(RECIPE, epochs=1, precision="bf16-mixed"))
    kinds = []
    block = run.network.stages[0].blocks[0]
    for module in (block.local.dw.conv, block.local, block.ffn.expand.conv, block):
        module.register_forward_hook(lambda m, i, o: kinds.append(o.dtype))
    fit(run)
    assert set(kinds[:4]) == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_have_the_layout_of_their_maps(colours, tmp_path, precision):
    """Where the two differ, normalisations and sums take several times as long on a CPU."""
    plan = replace(RECIPE, epochs=1, image_size=192, precision=precision)  # no map is of one token
    run, layouts = prepare(colours, tmp_path, plan), {}

    def look(name):
        def hook(module, given, output):
            pairs = {"made": output[0], "given": given[0]}
            layouts.update({(name, key): is_channels_last(each) for key, each in pairs.items() if each is not None})

        return hook

    for name, module in run.network.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d | DropPath):
            module.register_full_backward_hook(look(name))
    fit(run)
    assert len(layouts) > 20
    # Attention's products are of columns, so that those of queries, keys and values come the other way round.
    assert {name.split(".")[-2] for (name, _), kept in layouts.items() if not kept} <= {"qkv"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 9), (1, 1), (2, 2), (3, 5), (5, 1)])
def test_a_depthwise_convolution_in_mixed_precision_is_the_float32_one_rounded_once(stride, size):
    torch.manual_seed(0)
    exact = nn.Conv2d(24, 24, 3, stride, 1, groups=24, bias=False)
    mixed = copy.deepcopy(exact)
    keep_depthwise_in_float32(nn.Sequential(mixed))
    image = torch.randn(4, 24, *size).bfloat16().to(memory_format=torch.channels_last)
    ours, theirs = image.clone().requires_grad_(), image.float().requires_grad_()
    kept: list[torch.Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = mixed(ours)
    expected = exact(theirs)
    assert torch.equal(output, expected.bfloat16())
    assert {t.dtype for t in kept if t.shape == image.shape} == {torch.bfloat16}
    gradient = torch.randn_like(output)
    output.backward(gradient)
    expected.backward(gradient.float())
    assert torch.equal(ours.grad, theirs.grad.bfloat16())
    torch.testing.assert_close(mixed.weight.grad, exact.weight.grad, rtol=1e-6, atol=1e-6)


def test_keeping_depthwise_in_float32_changes_no_weights_and_no_float32_result():
    model = timm.create_model("shvit_s1", num_classes=3).eval()
    image = torch.randn(1, 3, 64, 64)
    names, expected = list(model.state_dict()), model(image)
    keep_depthwise_in_float32(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(image), expected)


def test_the_learning_rate_warms_up_then_follows_a_cosine():
    plan = Optimizer(lr=4e-3, warmup_epochs=2, min_lr=1e-5, warmup_lr=0.0)
    recipe = Recipe(epochs=10, batch_size=256, optimizer=plan)
    optimizer = build_optimizer(small_shvit(), recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch=100)
    rates = []
    for step in (0, 100, 200, 600, 1000):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0, 1e-3, 2e-3, (2e-3 + 1e-5) / 2, 1e-5])


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


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"crop_ratio": 0}, "crop_ratio"),
        ({"image_size_start": 999}, "image_size_start"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 2049}, "image_size"),
        ({"image_size": 64.5}, "image_size"),
        ({"image_size": "64x"}, "image_size"),
        ({"image_size": "0x320"}, "image_size"),
        ({"image_size": "160x320x3"}, "image_size"),
        ({"image_size": "64x4096"}, "image_size"),
        ({"resize_mode": "border"}, "resize_mode"),
        ({"pad_color": (0, 0, 256)}, "pad_color"),
        ({"resize_mode": "pad", "distillation": Distillation(logits="logits")}, "distillation.logits"),
        ({"image_size": "64x96", "distillation": Distillation(logits="logits")}, "distillation.logits"),
        ({"precision": "half"}, "precision"),
        ({"mixup": -1}, "mixup"),
        ({"non_finite": "ignore"}, "non_finite"),
        ({"repeats": 3, "batch_size": 2}, "repeats"),
        ({"freeze_norm": True}, "freeze_norm"),
        ({"val_share": 1.0}, "val_share"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_fields_name(fields, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("part", "field", "message"),
    [
        (Optimizer, "name", "optimizer.name: expected one of adamw, muon, got 'other'"),
        (Optimizer, "clip_mode", "optimizer.clip_mode: expected one of norm, agc, got 'other'"),
        (Distillation, "kind", "distillation.kind: expected one of soft, hard, got 'other'"),
    ],
)
def test_a_choice_that_a_part_does_not_have_is_refused(part, field, message):
    """Python does not look at a Literal: what is not the one was silently the other."""
    with pytest.raises(ArgumentError, match=message):
        part(**{field: "other"})


@pytest.mark.parametrize(
    ("start", "size", "nearest"),
    [
        (15, 224, "; nearest: 32 or 64"),
        (0, 224, "; nearest: 32 or 64"),
        (-32, 224, "; nearest: 32 or 64"),
        (144, 224, "; nearest: 128 or 160"),
        (199, 200, "; nearest: 192 or 200"),
        (256, 224, "; nearest: 192 or 224"),
        (16, 24, "; nearest: 24"),
        (64.5, 224, ""),
    ],
)
def test_a_size_to_start_from_that_no_epoch_would_have_is_refused(start, size, nearest):
    """15 pixels would be rounded to none, 144 to 128."""
    with pytest.raises(
        ValueError,
        match=rf"^image_size_start: expected a multiple of 32 pixels below image_size, or image_size itself "
        rf"\({size}\), got {start}{nearest}$",
    ):
        Recipe(image_size=size, image_size_start=start)


@pytest.mark.parametrize(("start", "size"), [(32, 224), (96, 200), (192, 224), (224, 224), (200, 200), (24, 24)])
def test_the_first_epoch_has_the_size_to_start_from(start, size):
    recipe = Recipe(image_size=size, image_size_start=start, epochs=7)
    assert recipe.image_size_at(0) == (start, start)
    assert recipe.image_size_at(6) == (size, size)


def test_image_size_grows_to_the_last_epoch():
    recipe = Recipe(image_size=128, image_size_start=64, epochs=9)
    sizes = [recipe.image_size_at(epoch) for epoch in range(9)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == ((64, 64), (128, 128))
    assert set(sizes) == {(64, 64), (96, 96), (128, 128)}


def test_an_input_that_is_not_square_grows_in_its_proportion():
    recipe = Recipe(image_size="320x160", image_size_start=64, epochs=9)
    sizes = [recipe.image_size_at(epoch) for epoch in range(9)]
    assert sizes == sorted(sizes)
    assert list(dict.fromkeys(sizes)) == [(128, 64), (192, 96), (256, 128), (320, 160)]
    assert {recipe.image_size_at(each) for each in (8, 9, 20)} == {(320, 160)}
    assert {Recipe(image_size="320x160", epochs=5).image_size_at(each) for each in range(5)} == {(320, 160)}
    with pytest.raises(ValueError, match=r"pixels below the shorter side, or the shorter side itself \(160\), got 320"):
        Recipe(image_size="320x160", image_size_start=320)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(96, 96), ("96", 96), ("96x96", 96), ((96, 96), 96), ("64x96", "64x96"), ((64, 96), "64x96")],
)
def test_a_size_has_one_spelling(given, kept):
    assert Recipe(image_size=given).image_size == kept
    assert preprocessing_of(Recipe(image_size=given)).image_size == Recipe(image_size=given).sides


def wide_and_tall(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for name in ("blue", "green", "red"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                size = (24, 96, 3) if number % 2 else (96, 24, 3)
                Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(
                    folder / split / name / f"{number}.png"
                )
    return folder


@pytest.mark.parametrize(
    ("image_size", "mode"), [("64x96", "pad"), (64, "pad"), ("64x96", "crop"), (64, "squash")], ids=str
)
def test_every_shape_and_mode_is_trained_evaluated_and_exported_alike(image_size, mode, tmp_path):
    recipe = replace(
        RECIPE, image_size=image_size, resize_mode=mode, pad_color=(3, 2, 1), image_size_start=32, epochs=3, ema_decay=0
    )
    data = wide_and_tall(tmp_path / "data")
    run = prepare(data, tmp_path / "run", recipe, small_shvit())
    progress = fit(run)
    _, checkpoint = load_model(run.folder / "best.safetensors")
    kept = stored_preprocessing(checkpoint)
    assert kept == Preprocessing(recipe.sides, resize_mode=mode, pad_color=(3, 2, 1)) == run.preprocessing
    assert checkpoint.metadata["recipe"]["image_size"] == image_size
    report = shvit.export(run.folder / "best.safetensors", tmp_path / "mine.onnx", precision="fp32")
    assert report.card.preprocessing == kept
    for file in (run.folder / "best.safetensors", report.path):
        result = shvit.evaluate(file, data)
        assert result.figures["loss"] == pytest.approx(progress.best_loss, rel=1e-4)
    again = default_recipe("shvit_s1", 72, str(run.folder / "best.safetensors"))
    assert (again.image_size, again.resize_mode, again.pad_color) == (image_size, mode, (3, 2, 1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", pytest.param("16-mixed", marks=pytest.mark.slow)])
def test_no_library_speaks_to_the_user(colours, tmp_path, precision):
    """One epoch of warm-up alone, after which timm would warn of a cosine of one step; Fabric would announce itself."""
    options = {"image_size": 32, "epochs": 1, "batch_size": 8, "precision": precision}
    process = drive(colours, tmp_path, options, PYTHONWARNINGS="default")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert errors == ""
