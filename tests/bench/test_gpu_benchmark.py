"""benchmarks/gpu/throughput.py on a CPU: what it counts, and that one failure leaves the rest."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from shvit.models import create_model, reparameterize
from shvit.models.reparam import folded_network

from ..conftest import ROOT


@pytest.fixture(scope="module")
def throughput() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_throughput", ROOT / "benchmarks" / "gpu" / "throughput.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_roofline_has_all_that_the_network_does(throughput):
    whole, *stages = throughput.roofline(
        throughput.Subject.open("shvit_s1"), "fp16", 32, {"tera_ops_per_second": 500.0, "copy_gb_per_second": 2000.0}
    )
    network = reparameterize(create_model("shvit_s1")).eval()
    assert (
        whole["operations"]
        == sum(each["operations"] for each in stages)
        == 2 * 32 * folded_network(network).macs((224, 224))
    )
    weights = 2 * sum(each.numel() for each in network.parameters())
    image, logits = 2 * 32 * 3 * 224 * 224, 2 * 32 * 1000
    assert weights + image + logits < whole["fused_bytes"] < whole["bytes"]
    assert [each["stage"] for each in stages] == ["stem", "stages.0", "stages.1", "stages.2", "head"]
    for each in stages:
        assert each["fused_bytes"] <= each["bytes"]
        assert each["fused_seconds"] == max(each["arithmetic_seconds"], each["fused_bytes"] / 2000e9)


def test_a_side_that_fails_is_one_row_with_its_error(throughput, monkeypatch):
    def refuse(*arguments: object, **options: object) -> object:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    sides = [
        throughput.Side(*each)
        for each in (
            ("timm", "eager", "contiguous"),
            ("shvit", "default", "contiguous"),
            ("shvit", "eager", "channels-last"),
        )
    ]
    rows = throughput.measure(throughput.Subject.open("shvit_s1"), "fp32", 2, sides, throughput.Device("cpu"), 0.01, 2)
    assert [row.get("error") for row in rows] == [None, "no compiler", None]
    for row in (rows[0], rows[2]):
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p99"]
        assert 0 < row["images_per_second"]["min"] <= row["images_per_second"]["max"]
