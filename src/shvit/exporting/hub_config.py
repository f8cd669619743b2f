"""A network as timm and Hugging Face's libraries describe one: configuration, tensors, preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Card, Preprocessing, TaskName
from shvit.errors import ExportError
from shvit.network.folding import NORM_EPSILON, fold
from shvit.network.network import FoldedNetwork
from shvit.network.shapes import tensor_shapes
from shvit.network.tensor_names import RENAME
from shvit.network.variants import VARIANTS, SHViTConfig

LANCZOS = 1
"""Pillow's number of it, which Hugging Face's libraries use too."""


PROBLEMS: dict[TaskName, dict[str, str]] = {
    "classification": {},
    "multi_label": {"problem_type": "multi_label_classification"},
}
"""By which transformers and transformers.js know that scores are sigmoids."""


def check_expressible(config: SHViTConfig, preprocessing: Preprocessing) -> None:
    """Refuses what these libraries have no words for.

    Raises:
        ExportError: the message says what it is.
    """
    height, width = preprocessing.image_size
    if preprocessing.resize_mode == "pad":
        raise ExportError(
            "a repository for the hub: transformers.js cannot put an image into the middle of padding; expected the "
            "resize mode crop or squash; export it to ONNX instead"
        )
    if preprocessing.resize_mode == "crop" and height != width:
        raise ExportError(
            f"a repository for the hub: transformers.js cannot crop to {width}x{height} pixels; expected a square "
            "input (--image-size N), or the resize mode squash"
        )
    wanted = {
        "stages": (len(config.widths), 3),
        "stem_stride": (config.stem_stride, 16),
        "num_heads": (config.num_heads, 1),
        "mlp_ratio": (config.mlp_ratio, 2),
        "attention_step": (config.attention_step, 1),
        "attention_gate": (config.attention_gate, False),
        "activation": (config.activation, "relu"),
        "branch_kernels": (config.branch_kernels, ()),
        "head_stages": (config.head_stages, 1),
    }
    for field, (found, expected) in wanted.items():
        if found != expected:
            raise ExportError(
                f"a repository for the hub: timm's SHViT has {field}={expected}, this network {found}; export it to "
                "ONNX instead"
            )
    if any(one == other for one, other in pairwise(config.widths)):
        raise ExportError(
            f"a repository for the hub: timm's SHViT downsamples only where the width changes, this one's widths are "
            f"{config.widths}; export it to ONNX instead"
        )


def timm_config(config: SHViTConfig, card: Card, quantized: bool) -> dict[str, Any]:
    """``config.json`` as timm writes it, from which transformers reads too; and what transformers.js needs besides.

    Args:
        quantized: there is an 8-bit file, which transformers.js takes in WebAssembly unless told otherwise.
    """
    height, width = card.preprocessing.image_size
    squash = card.preprocessing.resize_mode == "squash"
    labels = [each.label for each in card.classes]
    architecture = FoldedNetwork(config, {}).architecture
    written: dict[str, Any] = {
        "architecture": architecture if architecture in VARIANTS else "shvit_s1",
        "num_classes": config.num_classes,
        "num_features": config.num_features,
        "global_pool": "avg",
        "label_names": labels,
    }
    if architecture not in VARIANTS:
        written["model_args"] = {
            "embed_dim": list(config.widths),
            "depth": list(config.depths),
            "partial_dim": list(config.partial_dims),
            "qk_dim": [config.qk_dim] * len(config.widths),
            "types": ["s" if each else "i" for each in config.attention],
        }
    written["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": [3, height, width],
        "fixed_input_size": False,
        "interpolation": card.preprocessing.interpolation,
        "crop_pct": 1.0 if squash else card.preprocessing.crop_ratio,
        "crop_mode": "squash" if squash else "center",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "num_classes": config.num_classes,
        "pool_size": [-(-height // config.strides[-1]), -(-width // config.strides[-1])],
        "first_conv": "patch_embed.0.c",
        "classifier": "head.l",
        "origin_url": "https://github.com/ysj9909/SHViT",
        "paper_name": "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
        "paper_ids": "arXiv:2401.16456",
    }
    written["id2label"] = {str(place): label for place, label in enumerate(labels)}
    written |= PROBLEMS[card.task]
    if not quantized:
        written["transformers.js_config"] = {"dtype": "fp32"}
    return written


def timm_tensors(config: SHViTConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A network's tensors in training form under timm's names, in float32.

    timm's SHViT has one head: of two their mean, which is what is computed, with a normalisation that changes nothing.

    Raises:
        ExportError: one is missing, or of another shape than the configuration's.
    """
    given = dict(tensors)
    if config.distillation:
        identity = np.ones(config.widths[-1], np.float32)
        folded = fold(config, {name: each for name, each in given.items() if name.startswith("head")})
        given = {name: each for name, each in given.items() if not name.startswith("head")} | {
            "head.norm.weight": identity,
            "head.norm.bias": 0 * identity,
            "head.norm.running_mean": 0 * identity,
            "head.norm.running_var": (1 - NORM_EPSILON) * identity,
            "head.linear.weight": folded["head.weight"],
            "head.linear.bias": folded["head.bias"],
        }
    rename, renamed = RENAME["timm"], {}
    for name, shape in tensor_shapes(replace(config, distillation=False)).items():
        if name.endswith("num_batches_tracked"):
            renamed[rename(name)] = np.asarray(given.get(name, 0), np.int64)
            continue
        if name not in given or given[name].shape != shape:
            found = given[name].shape if name in given else "none"
            raise ExportError(f"a repository for the hub: {name} should have the shape {shape}, got {found}")
        renamed[rename(name)] = np.ascontiguousarray(given[name], np.float32)
    return renamed


def processor_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``processor_config.json``: has transformers, from 5 on, prepare images by timm's own code.

    Args:
        config: what ``timm_config`` gives.
    """
    timm = {key: config[key] for key in ("architecture", "pretrained_cfg")}
    return {"image_processor": {"image_processor_type": "TimmWrapperImageProcessor", **timm}}


def preprocessor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """``preprocessor_config.json``, from which transformers.js prepares images, and transformers before 5."""
    height, width = preprocessing.image_size
    size: dict[str, int] = {"height": height, "width": width}
    crop = preprocessing.resize_mode == "crop"
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": math.floor(height / preprocessing.crop_ratio)} if crop else size,
        # Of transformers.js's ways in Node the only one that averages what it makes smaller, as Pillow always does:
        # with its bicubic one, pixels are five times as far from ours. In browsers a canvas decides.
        "resample": LANCZOS,
        "do_center_crop": crop,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
