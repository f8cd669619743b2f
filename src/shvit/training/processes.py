"""The devices and processes that a run takes."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy

from shvit.errors import ArgumentError
from shvit.training.recipe import Execution, Recipe

PATIENCE = timedelta(minutes=5)
"""How long a process waits for the others before it takes them for lost."""


def check_device(name: str) -> None:
    """Refuses a device that is not here.

    Args:
        name: PyTorch's name of a kind of device, or ``auto``.

    Raises:
        ValueError: this machine has none, or this PyTorch cannot use it.
    """
    if name not in ("auto", "cpu") and not getattr(torch, name).is_available():
        raise ArgumentError(f"device {name}: this machine has none, or this PyTorch cannot use it")


def launch(recipe: Recipe, execution: Execution) -> Fabric:
    """Starts the other processes, or joins those that ``torchrun`` started.

    Raises:
        ValueError: this machine does not have the device.
    """
    check_device(execution.device)
    fabric = _fabric(recipe, execution)
    if execution.processes > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        _join_restarted(fabric)
    fabric.launch()
    return fabric


def _fabric(recipe: Recipe, execution: Execution) -> Fabric:
    strategy: Any = DDPStrategy(timeout=PATIENCE) if execution.processes > 1 else "auto"
    where: Any = {"accelerator": execution.device, "devices": execution.devices, "num_nodes": execution.nodes}
    if recipe.precision == "32-true":
        return Fabric(**where, strategy=strategy, precision=recipe.precision)
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there = next((kind for kind, available in kinds.items() if available), "cpu")
    device = there if execution.device == "auto" else execution.device
    # By name, Fabric would take bfloat16 for float16 on CPUs, and print a line of its own.
    return Fabric(**where, strategy=strategy, plugins=MixedPrecision(recipe.precision, device=device))


def _join_restarted(fabric: Fabric) -> None:
    """Joins the processes that ``torchrun`` started again, under keys of this attempt.

    Its store outlives the attempt, so that under the same keys a process could find the address of a dead one.
    """
    store, rank, world_size = next(dist.rendezvous("env://"))
    attempt = dist.PrefixStore(f"restart{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if fabric.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=world_size, timeout=PATIENCE)


def tells_of_a_lost_process(error: RuntimeError) -> bool:
    """Whether an error of a collective operation is for want of another process."""
    text = str(error).lower()
    return any(word in text for word in ("connection", "gloo", "nccl", "timed out", "timeout", "peer"))
