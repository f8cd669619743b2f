"""ExecuTorch: a ``.pte`` program whose layers XNNPACK computes, for Android, iOS and small Linux boards.

The format has no metadata: the card is beside the file, in ``NAME.card.json``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from shvit.errors import MissingDependencyError
from shvit.exporting.trace import deployed
from shvit.install import install_command
from shvit.modelfile.source import Infer, Source
from shvit.modelfile.verify import Written, in_batches_of, quiet, with_version, write_beside


def _missing() -> MissingDependencyError:
    return MissingDependencyError(f"ExecuTorch is not installed; install it with: {install_command('executorch')}")


def convert(source: Source, path: Path) -> Written:
    """Writes the program for batches of ``source.batch_size``."""
    try:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            example = torch.zeros(source.batch_size, *source.card.preprocessing.image_size, 3, dtype=torch.uint8)
            program = torch.export.export(deployed(source), (example,))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except ImportError as error:
        raise _missing() from error
    path.write_bytes(lowered.buffer)
    return Written(
        partial(write_beside, path),
        lambda: load_program(path, source.batch_size),
        with_version("executorch"),
    )


def load_program(path: Path, batch_size: int = 1) -> Infer:
    """Loads a program into ExecuTorch's Python runtime, which needs PyTorch; for verification and measurements.

    Args:
        batch_size: images that the program takes at once.

    Returns:
        From ``uint8 (N, H, W, 3)``, N of any size, to logits ``float32 (N, classes)``.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
    """
    try:
        with quiet():
            from executorch.runtime import Runtime

            method = Runtime.get().load_program(path).load_method("forward")
    except ImportError as error:
        raise _missing() from error

    def infer(images: np.ndarray) -> np.ndarray:
        return method.execute([torch.from_numpy(images)])[0].numpy()

    return in_batches_of(batch_size, infer)
