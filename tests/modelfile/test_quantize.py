"""What 8 bits cost, and how layers that cost much are found and left out."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from scipy.stats import binom

from shvit import Classifier
from shvit.card import IMAGENET_MEAN, IMAGENET_STD, ClassInfo, Preprocessing
from shvit.cli.main import main
from shvit.evaluation import int8
from shvit.evaluation.evaluate import Evaluation
from shvit.evaluation.int8 import paired_loss, tail
from shvit.modelfile.quantize import quantize_graph, rank_layers
from shvit.models import SHViT, reparameterize, save_checkpoint
from shvit.models.reparam import folded_network
from shvit.models.shvit import FeedForward
from shvit.network.graph import deployment_graph

from ..conftest import SAMPLES
from ..models.test_reparam import randomized
from ..network.test_graph import SMALL

SIZE = (64, 64)


def crops(count: int) -> np.ndarray:
    """Parts of the photographs, ``uint8 (N, 64, 64, 3)``."""
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg"))]
    parts = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        side = int(min(image.size) * rng.uniform(0.2, 0.8))
        left, top = rng.integers(0, image.width - side), rng.integers(0, image.height - side)
        parts.append(np.asarray(image.resize(SIZE, box=(left, top, left + side, top + side))))
    return np.stack(parts)


@torch.no_grad()
def logits(model: SHViT, images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(value) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))
    return model(((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2))


@torch.no_grad()
def network(images: np.ndarray, sensitive: str) -> SHViT:
    """One channel is 5000 times the others in the feed-forward networks whose names start so; the result stays."""
    model = randomized(SMALL).float()
    for name, ffn in model.named_modules():
        if isinstance(ffn, FeedForward) and name.startswith(sensitive):
            ffn.expand.norm.weight[0] *= 5000
            ffn.expand.norm.bias[0] *= 5000
            ffn.project.conv.weight[:, 0] /= 5000
    model.head.linear.bias -= logits(model, images).mean(0)  # so that all classes are found
    return model


def test_the_layer_that_costs_most_is_found():
    images = crops(32)
    graph = deployment_graph(folded_network(network(images, "stages.2.blocks.1")), SIZE)
    assert rank_layers(graph, images)[0] == "stages.2.blocks.1"


def test_a_layer_that_is_kept_has_no_quantisation():
    images = crops(16)
    graph = deployment_graph(folded_network(randomized(SMALL)), SIZE)
    result = quantize_graph(graph, images, keep_float=["stages.1.blocks.0", "stem"]).graph
    producers = {name: node.op_type for node in result.node for name in node.output}
    in_float = {
        node.name
        for node in result.node
        if node.op_type == "Conv" and producers.get(node.input[1]) != "DequantizeLinear"
    }
    assert in_float == {
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and node.name.startswith(("stages.1.blocks.0.", "stem."))
    }


def test_images_enter_as_they_are_with_the_mean_in_the_bias():
    images = crops(16)
    model = reparameterize(randomized(SMALL).float())
    graph = deployment_graph(folded_network(model), SIZE)
    quantized = quantize_graph(graph, images)
    (first,) = (node for node in quantized.graph.node if "images" in node.input)
    assert first.op_type == "Transpose"
    assert onnx.checker.check_model(quantized, full_check=True) is None
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    (entry,) = (node for node in quantized.graph.node if first.output[0] in node.input)
    assert [constants[name].item() for name in entry.input[1:]] == [1, 114]


def export(folder: Path, sensitive: str, limit: str, validation: int = 96, shift: int = 0) -> tuple[int, Path]:
    """Exports a network to int8 that is right about all of the images in float32.

    Args:
        validation: how many images of each class there are, at most, to measure on.
        shift: how far each image's class is from the one that the network names.
    """
    images = crops(96)
    model = network(images, sensitive)
    labels = logits(model, images).argmax(1).tolist()
    assert set(labels) == set(range(4))
    for split, most in (("train", 96), ("val", validation)):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            if labels[:number].count(label) >= most:
                continue
            path = folder / "data" / split / f"c{(label + shift) % 4}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    checkpoint, output = folder / "small.safetensors", folder / "small.onnx"
    save_checkpoint(model, checkpoint, metadata=metadata())
    arguments = ["export", "--model", str(checkpoint), "--output", str(output), "--precision", "int8"]
    return main([*arguments, "--calibration", str(folder / "data"), "--max-loss", limit]), output


def test_a_layer_stays_in_float_when_8_bits_cost_more_than_the_budget(tmp_path, capsys):
    status, output = export(tmp_path, "stages.2.blocks.1", "25")
    told = capsys.readouterr()
    assert status == 0, told.err
    assert "left in float32: stages.2.blocks.1\n" in told.out
    assert "comparing layers" in told.err
    (top1, _) = Classifier(output).card.metrics
    assert top1.value >= 0.75


def test_few_images_start_no_search_for_what_may_be_an_accident(tmp_path, capsys):
    status, output = export(tmp_path, "none", "20", validation=2)  # 2 of the 8 are lost, of the 104 one in 6
    told = capsys.readouterr()
    assert status == 0, told.err
    assert "8 validation images do not tell a loss of 20 points; the 96 images calibrated on are judged by" in told.err
    assert "give at least 1,000 validation images to measure it" in told.err
    assert "comparing layers" not in told.err
    assert "on 8 validation images" in told.out
    assert Classifier(output).card.metrics[0].dataset.endswith("(8 images)")


def test_labels_of_other_classes_are_refused_before_anything_is_quantised(tmp_path, capsys):
    status, output = export(tmp_path, "none", "0.5", validation=5, shift=1)
    assert status == 2
    told = capsys.readouterr().err
    assert "val: float32 is right for 0.00% of 20 validation images, less than by chance (25.00%)" in told
    assert "shvit eval" in told
    assert not output.exists()


def test_no_worker_is_forked_beside_the_threads_of_jax(tmp_path, monkeypatch):
    """litert-torch starts them; JAX warns of a likely deadlock."""
    workers = []

    def evaluate(*arguments: object, **options: int) -> Evaluation:
        workers.append(options["workers"])
        return whole_evaluate(*arguments, **options)

    whole_evaluate = int8.evaluate_classifier
    monkeypatch.setattr(int8, "evaluate_classifier", evaluate)
    monkeypatch.setitem(sys.modules, "jax", ModuleType("jax"))
    export(tmp_path, "none", "0.5", validation=5, shift=1)
    assert set(workers) == {0}


@pytest.mark.parametrize(
    ("lost", "won", "images", "limit", "exceeds"),
    [
        (1, 0, 20, 0.5, False),  # 5 points, and one picture
        (4, 0, 20, 0.5, False),  # one in 16 by accident
        (5, 0, 20, 0.5, True),  # one in 32
        (20, 15, 400, 0.5, False),  # 1.25 points, and one in 4 by accident
        (40, 15, 400, 0.5, True),
        (100, 40, 10_000, 0.5, True),  # 0.6 points
        (90, 45, 10_000, 0.5, False),  # 0.45
        (0, 9, 20, 0.0, False),
        (900, 100, 50_000, 0.5, True),
    ],
)
def test_a_loss_counts_when_it_is_more_than_the_budget_and_no_accident(lost, won, images, limit, exceeds):
    before, after = np.zeros(images, bool), np.zeros(images, bool)
    before[:lost], after[lost : lost + won] = True, True
    loss = paired_loss(before, after)
    assert loss == (images, lost, won)
    assert loss.points == pytest.approx(100 * (lost - won) / images)
    assert loss.exceeds(limit) is exceeds


def test_no_file_is_left_when_half_of_the_layers_in_float_are_not_enough(tmp_path, capsys):
    # Four validation images show it too, with those calibrated on.
    status, output = export(tmp_path, "stages", "0", validation=1)
    assert status == 2
    told = capsys.readouterr().err
    assert re.search(r"int8 loses \d+\.\d\d points on 100 images, with \d of 7 layers in float32", told), told
    assert "points may be lost (--max-loss)" in told
    assert not output.exists()


def metadata() -> dict[str, object]:
    preprocessing = Preprocessing(SIZE, crop_ratio=1.0, resize_mode="squash", interpolation="bilinear")
    return {"classes": [asdict(ClassInfo(i, f"c{i}")) for i in range(4)], "preprocessing": asdict(preprocessing)}


@pytest.mark.parametrize(
    ("least", "count", "probability"), [(0, 7, 0.3), (14, 120, 0.1), (30, 120, 0.1), (1100, 2000, 0.5)]
)
def test_how_probable_so_many_are_is_what_scipy_says(least, count, probability):
    assert tail(least, count, probability) == pytest.approx(binom.sf(least - 1, count, probability), rel=1e-9)
