"""torch.export: a ``.pt2`` program for PyTorch without this package, with the card among its extra files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from shvit.card import METADATA_KEY, Card
from shvit.exporting.trace import deployed
from shvit.modelfile.source import Infer, Source
from shvit.modelfile.verify import Written, with_version

LARGEST_BATCH = 4096


def convert(source: Source, path: Path) -> Written:
    """Writes the program; it takes batches of any size up to ``LARGEST_BATCH``."""
    program = export_program(source)

    def seal(card: Card) -> None:
        # In memory first: on a full disk PyTorch's own writer ends the process.
        archive = io.BytesIO()
        torch.export.save(program, archive, extra_files={METADATA_KEY: card.to_json()})
        path.write_bytes(archive.getvalue())

    return Written(seal, lambda: load_exported(path), with_version("torch"))


def export_program(source: Source) -> ExportedProgram:
    """The network as a graph of PyTorch's operators: ``uint8 (N, H, W, 3)`` to logits."""
    example = torch.zeros(2, *source.card.preprocessing.image_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            deployed(source), (example,), dynamic_shapes=({0: Dim("batch", min=1, max=LARGEST_BATCH)},)
        )


def load_exported(path: Path) -> Infer:
    """Loads a program, to be run in this process."""
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def infer(images: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(images)).numpy()

    return infer
