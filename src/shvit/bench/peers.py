"""Networks of timm's to compare with, and how accurate all are known to be."""

from __future__ import annotations

from typing import Any, NamedTuple

from shvit.bench.networks import Network, random_network
from shvit.errors import ArgumentError, MissingDependencyError
from shvit.install import install_command

TIMM = "timm, results/results-imagenet.csv"


class Published(NamedTuple):
    """A published accuracy, measured by others."""

    top1: float
    """Per cent of ImageNet-1k's 50,000 validation images."""
    image_size: int
    """Side of the input that it was measured at, in pixels."""
    weights: str
    """Which published weights they are."""
    source: str


PUBLISHED = {
    "shvit_s1": Published(72.8, 224, "shvit_s1", "SHViT paper (arXiv 2401.16456)"),
    "shvit_s2": Published(75.2, 224, "shvit_s2", "SHViT paper (arXiv 2401.16456)"),
    "shvit_s3": Published(77.4, 224, "shvit_s3", "SHViT paper (arXiv 2401.16456)"),
    "shvit_s4": Published(79.4, 256, "shvit_s4", "SHViT paper (arXiv 2401.16456)"),
    "mobilevitv2_100": Published(78.1, 256, "mobilevitv2_100.cvnets_in1k", TIMM),
    "mobilenetv4_conv_small": Published(
        73.8, 224, "mobilenetv4_conv_small.e2400_r224_in1k", "MobileNetV4 paper (arXiv 2404.10518)"
    ),
    "efficientnet_b0": Published(77.7, 224, "efficientnet_b0.ra_in1k", TIMM),
    "fastvit_t8": Published(75.6, 256, "fastvit_t8.apple_in1k", "FastViT paper (arXiv 2303.14189)"),
    "repvit_m1_0": Published(80.0, 224, "repvit_m1_0.dist_300e_in1k", "RepViT's README (arXiv 2307.09283); distilled"),
    "efficientvit_m4": Published(74.3, 224, "efficientvit_m4.r224_in1k", "EfficientViT paper (arXiv 2305.07027)"),
    "mobileone_s1": Published(75.9, 224, "mobileone_s1.apple_in1k", "MobileOne paper (arXiv 2206.04040)"),
}
"""Rounded to a tenth of a point. The speed of a network does not depend on them; only the chart shows them."""

PEERS = tuple(name for name in PUBLISHED if not name.startswith("shvit"))


def open_peer(name: str) -> Network:
    """A timm network with random weights, at the input size that its accuracy is known for.

    Raises:
        MissingDependencyError: timm is not installed.
        ValueError: timm has no such network.
    """
    try:
        import timm
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{name}: needs {error.name}, which is not installed; install it with: {install_command('torch')}"
        ) from None
    if not timm.is_model(name):
        raise ArgumentError(f"{name}: timm {timm.__version__} has no such network; see timm.list_models()")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
    settings: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    side = PUBLISHED[name].image_size if name in PUBLISHED else settings["input_size"][-1]
    return random_network(name, module, (side, side), tuple(settings["mean"]), tuple(settings["std"]))
