"""A checkpoint as what is evaluated. Needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from shvit.data.loader import normalize
from shvit.errors import CheckpointError
from shvit.modelfile.card import card_for
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network, inference_form
from shvit.network.sides import ImageSize
from shvit.tasks import task_of


class CheckpointClassifier:
    """A checkpoint's network, folded as export folds it, in PyTorch on the CPU.

    Args:
        image_size: another size of the input.
        threads: threads of one inference, for the whole process; PyTorch's default when not given.

    Raises:
        CheckpointError: the file cannot be used, or its network is no classifier of RGB images.
    """

    engine = "pytorch"

    def __init__(self, path: str | Path, image_size: ImageSize | None = None, threads: int | None = None) -> None:
        model, checkpoint = load_model(path)
        if model.num_classes == 0:
            raise CheckpointError(f"{path}: has no classification head; train one first with: shvit train")
        if model.config.in_chans != 3:
            raise CheckpointError(f"{path}: takes {model.config.in_chans} channels; only RGB images can be evaluated")
        if threads is not None:
            torch.set_num_threads(threads)
        self.card = card_for(folded_network(model), checkpoint, Path(path).stem, image_size)
        self._network = inference_form(model)

    @torch.inference_mode()
    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        return task_of(self.card).scores(self._network(normalize(torch.from_numpy(batch))).numpy())
