"""Which epoch of a run is its best."""

from __future__ import annotations

FEW_IMAGES = 500
"""With fewer validation images an epoch is chosen by its validation loss."""


def is_better(top1: float, loss: float, best_top1: float, best_loss: float | None, validation_images: int) -> bool:
    """Whether an epoch is better than the best so far, on the validation set.

    The higher top-1 wins; where it is the same, the smaller loss. One image more or less is most of what tells epochs
    apart on a small set, so that below ``FEW_IMAGES`` the smaller loss wins, which weighs every image.

    Args:
        top1: share in [0, 1], of the epoch; ``loss`` likewise.
        best_loss: ``None`` where it is not known: of a run that began before it was kept, or that has no best yet.
        validation_images: how many there are.
    """
    if best_loss is None:
        return top1 >= best_top1
    if validation_images < FEW_IMAGES:
        return loss < best_loss
    return (top1, -loss) > (best_top1, -best_loss)
