"""Which epoch of a run is its best."""

from __future__ import annotations

FEW_IMAGES = 500
"""With fewer validation images an epoch is chosen by its validation loss."""


FIGURES = {"top1": "top-1", "map": "mAP"}
"""What an epoch may be judged by, and how it is written: one label for a picture, several."""


def is_better(score: float, loss: float, best_score: float, best_loss: float | None, validation_images: int) -> bool:
    """Whether an epoch is better than the best so far, on the validation set.

    The higher score (top-1, or mAP of several labels) wins; where it is the same, the smaller loss. One image more or
    less is most of what tells epochs apart on a small set, so that below ``FEW_IMAGES`` the smaller loss wins, which
    weighs every image.

    Args:
        score: share in [0, 1], of the epoch; ``loss`` likewise.
        best_loss: ``None`` where it is not known: of a run that began before it was kept, or that has no best yet.
        validation_images: how many there are.
    """
    if best_loss is None:
        return score >= best_score
    if validation_images < FEW_IMAGES:
        return loss < best_loss
    return (score, -loss) > (best_score, -best_loss)
