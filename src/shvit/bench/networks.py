"""From what a user names to model files that can be timed. Needs the lab, unless it is a model file already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Card, ClassInfo, Preprocessing
from shvit.errors import ArgumentError, MissingDependencyError, ShvitError
from shvit.hub.cached import find_cached
from shvit.hub.names import PUBLISHED, Reference
from shvit.hub.resolve import INT8, reference_of, resolve_model
from shvit.images.preprocess import decode, preprocess
from shvit.network.sides import ImageSize, sides
from shvit.shipped import SHIPPED_MODELS, verification_images

if TYPE_CHECKING:
    import onnx
    from torch import nn

PRECISIONS = ("fp32", "fp16", "int8")
"""``fp16`` stores weights so; processors compute in float32 all the same."""

CALIBRATION = 32
"""Crops that ranges of 8-bit activations are taken from."""

SETTLING = 8
"""Crops that batch normalisations of random networks take their statistics from."""
RESIDUAL = 0.1
"""Small enough that the rounding of 8 bits does not pile up over random layers."""

_QUANTISED = b"\x22\x10DequantizeLinear"
"""A node of that kind, as an ONNX file spells it: field 4 of a node, 16 bytes."""


@dataclass(frozen=True)
class Session:
    """Where model files are made, and who is told of it."""

    folder: Path
    """Where those that have to be made are written, for the time of the measurement."""
    note: Callable[[str], None]
    """Told in a line what is not what it seems: random weights, calibration on the package's photographs."""
    advance: Callable[[int], None] = lambda count: None
    """Told of each model file that is there, and of each turn of timing."""


@dataclass(frozen=True)
class ModelFile:
    """Something to time, or why there is nothing."""

    model: str
    precision: str
    file: Path | None
    weights: str
    """Where they come from; ``random`` where this machine has none."""
    calibration: str | None = None
    """What ranges of 8-bit activations come from, if they were made here."""
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """A network to export."""

    model: str
    module: nn.Module
    """In training form, evaluating."""
    image_size: tuple[int, int]
    """Height and width."""
    weights: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def model_files(
    models: Sequence[str], precisions: Sequence[str], session: Session, image_size: ImageSize | None = None
) -> list[ModelFile]:
    """Model files of everything named, in every precision.

    Args:
        models: variants, shipped models, model files, checkpoints. A model file is taken as it is, once.
        image_size: another size of the input, where a file has to be made.

    Raises:
        ShvitError: there is no such model, or it cannot be read. A file that cannot be made is an entry
            with ``error``.
    """
    files = []
    for model in models:
        if _is_file(model):
            path = resolve_model(model)
            files.append(ModelFile(model, precision_of(path), path, "in the file"))
            session.advance(len(precisions))
            continue
        network = open_network(model, image_size)
        files += export_all(network, precisions, session)
    return files


def _is_file(model: str) -> bool:
    """Whether it is measured as the file that it gives; of a variant one is made in each precision, with PyTorch."""
    reference = reference_of(model)
    if reference is None:
        return model in SHIPPED_MODELS or Path(model).suffix == ".onnx"
    if reference.published is None or model.endswith(INT8):
        return True
    try:
        import shvit.models  # noqa: F401
    except MissingDependencyError:
        return True
    return False


def export_all(network: Network, precisions: Sequence[str], session: Session) -> list[ModelFile]:
    """Model files of one network; one that cannot be made is an entry with ``error``."""
    files = []
    if network.weights == "random":
        session.note(
            f"{network.model}: this machine does not have its weights; random ones are used, which are as fast"
        )
    for precision in precisions:
        calibration = "random crops of the package's photographs" if precision == "int8" else None
        path = session.folder / f"{len(list(session.folder.iterdir()))}_{precision}.onnx"
        if calibration:
            session.note(f"{network.model}: int8 is calibrated on {calibration}: for its speed, not for its accuracy")
        try:
            write_model_file(network, precision, path)
            files.append(ModelFile(network.model, precision, path, network.weights, calibration))
        except ShvitError as error:
            files.append(ModelFile(network.model, precision, None, network.weights, calibration, str(error)))
        session.advance(1)
    return files


def precision_of(path: Path) -> str:
    """What a model file's convolutions compute in: ``int8`` or ``fp32``."""
    return "int8" if _QUANTISED in path.read_bytes() else "fp32"


def open_network(model: str, image_size: ImageSize | None = None) -> Network:
    """A variant's or a checkpoint's network, with the weights that this machine has.

    Raises:
        ValueError: there is no such variant.
        CheckpointError: the file cannot be used.
    """
    import torch

    from shvit.models import create_model, list_models
    from shvit.models.checkpoints import load_model
    from shvit.network.weight_files import CHECKPOINT_SUFFIXES

    weights = cached_weights(model) if model in list_models() else Path(model)
    if model not in list_models() and weights is not None and weights.suffix not in CHECKPOINT_SUFFIXES:
        raise ArgumentError(
            f"{model}: no such model; expected one of {', '.join(list_models())} or a checkpoint "
            f"({', '.join(CHECKPOINT_SUFFIXES)}); `shvit bench speed` and `pipeline` take model files (.onnx) and "
            f"{', '.join(SHIPPED_MODELS)} too"
        )
    if weights is not None:
        module, _ = load_model(weights)
        size = sides(image_size or module.config.image_size)
        return Network(model, module.eval(), size, "hub cache" if model in list_models() else weights.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = create_model(model)
    return random_network(model, module, sides(image_size or module.config.image_size))


def random_network(
    name: str,
    module: nn.Module,
    image_size: tuple[int, int],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Network:
    """A network whose random weights give activations of a trained network's size.

    Batch normalisations take their statistics from photographs, and those that start at zero, as the last of a residual
    branch does, at ``RESIDUAL``. Otherwise the 8-bit ranges would be
    measured on all-zero activations. They shift each
    channel at random, because pooled features that are zero on average would be made of rounding alone.
    """
    import torch
    from torch.nn import BatchNorm2d

    # Not those of pooled features, which of a random network hardly differ between images: they would magnify rounding.
    norms = [each for each in module.modules() if isinstance(each, BatchNorm2d) and each.affine]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            if not norm.weight.any():
                norm.weight.fill_(RESIDUAL)
            norm.bias.normal_(generator=generator)
            norm.momentum = 1.0
        pixels = torch.from_numpy(calibration_crops(image_size, SETTLING)).float() / 255
        for norm in norms:
            norm.train()
        module(((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2))
        for norm in norms:
            norm.momentum = 0.1
    return Network(name, module.eval(), image_size, "random", mean, std)


def cached_weights(variant: str) -> Path | None:
    """A variant's published weights, if the hub's cache has them; nothing is fetched."""
    found = find_cached(Reference(variant, PUBLISHED[variant].repository))
    return None if found is None else found.file


def write_model_file(network: Network, precision: str, path: Path) -> None:
    """Exports a network as ``shvit export`` does: SHViT by that function, others by the same steps.

    Raises:
        ExportError: the file differs from the network.
    """
    import onnx

    from shvit.exporting import export_onnx
    from shvit.exporting.options import Precision
    from shvit.modelfile.onnx import set_card
    from shvit.models import SHViT
    from shvit.models.reparam import folded_network

    calibration = calibration_crops(network.image_size, CALIBRATION) if precision == "int8" else None
    module = network.module
    assert isinstance(module.num_classes, int)
    classes = tuple(ClassInfo(each, str(each)) for each in range(module.num_classes))
    architecture = folded_network(module).architecture if isinstance(module, SHViT) else network.model
    card = Card(network.model, architecture, classes, Preprocessing(network.image_size))
    if isinstance(module, SHViT):
        export_onnx(module, path, card, cast(Precision, precision), calibration=calibration)
        return
    proto = _traced(network)
    if calibration is not None:
        from shvit.modelfile.quantize import quantize_graph

        proto = quantize_graph(proto, calibration)
    set_card(proto, card)
    onnx.save(proto, path)


@lru_cache(maxsize=1)
def _traced(network: Network) -> onnx.ModelProto:
    """A network of timm's in the form that it is deployed in; kept, because each precision starts from it."""
    from shvit.exporting.trace import Deployed, trace_to_onnx

    return trace_to_onnx(Deployed(deployed(network), network.mean, network.std), network.image_size)


def deployed(network: Network) -> nn.Module:
    """A copy in the form that it is deployed in: SHViT folded, timm's networks with their branches merged."""
    from shvit.models import SHViT
    from shvit.models.reparam import inference_form

    module = network.module
    if not isinstance(module, SHViT):
        import torch
        from timm.utils.model import reparameterize_model

        with torch.no_grad():
            return reparameterize_model(copy.deepcopy(module))
    return inference_form(module)


def calibration_crops(image_size: tuple[int, int], count: int) -> np.ndarray:
    """Crops of the package's photographs, the same at every call: ``uint8 (count, H, W, 3)``."""
    photographs = [decode(path) for path in verification_images()]
    rng = np.random.default_rng(0)
    whole = Preprocessing(image_size, crop_ratio=1.0)
    crops = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        left, top = (rng.uniform(0, 0.4) * side for side in image.size)
        crops.append(preprocess(image.crop((int(left), int(top), *image.size)), whole))
    return np.stack(crops)
