"""How far a training run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Where a run stands; what a checkpoint holds beside the tensors."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimizer steps taken in the epoch that is under way."""
    best_score: float = 0.0
    """What an epoch is judged by on the validation images, in [0, 1], of the best: top-1, or mAP of several labels."""
    best_loss: float | None = None
    """Validation loss of the best; ``None`` before there is one, and in checkpoints from before it was kept."""
    best_epoch: int = 0
    """Epochs that were finished when the best was reached."""
    skipped: int = 0
    """Steps left out because their loss was not finite."""
    seconds: float = 0.0
    """Time spent training, over all of the run's sessions."""
