"""From labelled images to a trained network, in one call; what ``shvit train`` does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import check_outputs
from shvit.card import TaskName
from shvit.data.alignment import describe_alignment, describe_missing, has_images
from shvit.data.datasets import OpenedDatasets, open_datasets, short_path
from shvit.data.stratify import has_several
from shvit.data.targets import task_of_labels
from shvit.data.unread import describe_unread, left_out
from shvit.data.workers import check_guarded
from shvit.display import say
from shvit.errors import ArgumentError, DataError
from shvit.runs.metrics import FILE as METRICS
from shvit.runs.metrics import Row, read_metrics
from shvit.runs.run_folder import CURVES, ENVIRONMENT, RECIPE
from shvit.training import checkpoint
from shvit.training.defaults import default_recipe, describe
from shvit.training.locking import only_run
from shvit.training.loop import fit, is_finished, setup
from shvit.training.recipe import Execution, Recipe

if TYPE_CHECKING:
    from shvit.data.broken import BrokenImage
    from shvit.training.run import Run

FOLDER = Path("runs/shvit")
"""Where a run goes for which no folder is named, if that is free; else ``runs/shvit-2`` and so on."""


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """What a training left behind."""

    folder: Path
    best: Path
    """Weights of the best epoch, to evaluate and export."""
    last: Path
    """Weights of the last epoch."""
    recipe: Recipe
    """What was trained by, whole."""
    top1: float | None
    """Of the best epoch on the validation images, in [0, 1]; ``None`` of several labels."""
    loss: float | None
    """Its cross-entropy there; ``None`` where an older version did not keep it."""
    best_epoch: int
    """Counted from 1; 0 where the fitted head alone was better than what came of it."""
    epochs: int
    """How many were trained, over all sessions."""
    broken: tuple[BrokenImage, ...]
    """Images that could not be read and were left out."""
    skipped: int
    """Steps left out because their loss was not finite."""
    notes: tuple[str, ...]
    """What was found at the start: how validation images were held out, files that were not read, the plan."""
    mean_average_precision: float | None = None
    """Of several labels: mAP of the best epoch on the validation images, in [0, 1]."""
    is_first: bool = True
    """Whether this is the first of the processes that trained together, the one that wrote the files."""

    def __repr__(self) -> str:
        one = self.mean_average_precision is None
        best = f"top1={self.top1:.4f}" if one else f"mean_average_precision={self.mean_average_precision:.4f}"
        reached = f"{best}, best_epoch={self.best_epoch}, epochs={self.epochs}"
        return f"TrainedRun({str(self.folder)!r}, {reached})"

    @property
    def metrics(self) -> list[Row]:
        """``metrics.csv``: a row for each logged step and each validation, with ``epoch``, ``step`` and figures.

        Raises:
            DataError: the file is gone or damaged.
        """
        return read_metrics(self.folder / METRICS)


@dataclass(frozen=True)
class TrainingPlan:
    """All that is decided before a training starts."""

    data: str | Path
    """The datasets' name, as it was given."""
    datasets: OpenedDatasets
    recipe: Recipe
    folder: Path
    execution: Execution
    resume: bool = False
    """Go on from the newest checkpoint in the folder, if there is one."""
    chosen: bool = False
    """The recipe was chosen for the data, apart from single values."""
    recipe_files: Sequence[str | Path] = ()
    """Where the recipe comes from."""
    wandb: bool = False
    """Log to Weights & Biases too."""


def train(
    data: str | Path,
    output: str | Path | None = None,
    *,
    model: str | None = None,
    pretrained: bool | str | Path | None = None,
    epochs: int | None = None,
    recipe: Recipe | str | Path | None = None,
    execution: Execution | None = None,
    resume: bool = False,
    progress: bool = False,
) -> TrainedRun:
    """Trains or fine-tunes a SHViT on labelled images.

    It does what ``shvit train`` does, with the same checks and defaults::

        run = shvit.train("photos/", pretrained=True, epochs=5)
        shvit.export(run.best, "mine.onnx")

    For any other value of the recipe, change the one that suits the data::

        recipe = shvit.recipe_for("photos/", pretrained=True)
        run = shvit.train("photos/", recipe=dataclasses.replace(recipe, image_size=160))

    A run that was interrupted (Ctrl-C, the stop button of a notebook, a crash) goes on from its newest checkpoint when
    the same call is made again with ``resume=True``; checkpoints are written after each epoch, and more often with
    ``shvit.Execution(checkpoint_every_steps=N)``. It may run in any thread.

    Images are decoded in two processes of their own. Where Python starts those anew (macOS, Windows), the call in a
    script belongs under ``if __name__ == "__main__":``, or takes ``execution=shvit.Execution(workers=0)``. To train in
    several processes, use the command.

    Args:
        data: a folder with one sub-folder for each class, or any other dataset of ``docs/data.md``.
        output: the run's folder; ``runs/shvit`` when not given, or ``runs/shvit-2`` and so on if that is taken.
        model: variant, shvit_s1 to shvit_s4; the recipe's, or shvit_s1, when not given.
        pretrained: weights to start from: a checkpoint's file, or ``True`` for the variant's ImageNet weights from the
            hub; ``False`` starts from nothing. A model file that ``shvit teach`` wrote: the weights that it was taught
            on, where its card names them, at its image size. The recipe's, or nothing, when not given.
        epochs: passes over the training images; the recipe's when not given.
        recipe: a recipe, or the YAML file of one; the default for so many images when not given. ``model``,
            ``pretrained`` and ``epochs`` override its values.
        execution: device, decoding processes, checkpoints.
        resume: go on with the run in ``output`` (when not given: the last of ``runs/shvit``, ``runs/shvit-2``, ...), by
            the recipe that it began with; begin it if there is none.
        progress: a progress bar, or lines where no terminal is, on stderr.

    Returns:
        Where the run's files are, how good the best epoch is, and what was left out.

    Raises:
        DataError: the images cannot be used; the message says why.
        CheckpointError: weights or checkpoints cannot be read, or are of another network or recipe.
        TrainingError: a loss is not finite, or another process trains in the folder.
        ArgumentError: a value that cannot be, or a folder that holds a run already.
        MissingDependencyError: PyTorch is not installed; the message says which command installs it.
    """
    folder = Path(output) if output is not None else run_folder(resume)
    begun = folder / RECIPE
    file = recipe if isinstance(recipe, (str, Path)) else None
    given = recipe if isinstance(recipe, Recipe) else None
    if file is not None:
        given = read_recipe(file)
    elif given is None and resume and begun.is_file():
        given = read_recipe(begun)
    changes: dict[str, Any] = {"model": model, "epochs": epochs}
    changes = {name: value for name, value in changes.items() if value is not None}
    if pretrained is not None:
        changes = {**_start(pretrained), **changes}
    opened = given or Recipe()
    datasets = open_datasets(data, opened.seed, opened.val_share, opened.image_key, opened.task)
    own = task_of_labels(datasets.train)
    chosen = given or default_recipe(
        changes.get("model", Recipe.model),
        len(datasets.train),
        changes.get("pretrained"),
        task=own,
        head_start=changes.get("head_start", Recipe.head_start),
    )
    plan = TrainingPlan(
        data,
        datasets,
        replace(chosen, **changes),
        folder,
        execution or Execution(),
        resume,
        chosen=given is None,
        recipe_files=() if file is None else (file,),
    )
    return carry_out(plan, progress)


def recipe_for(
    data: str | Path,
    *,
    model: str = Recipe.model,
    pretrained: bool | str | Path = False,
    quantization_aware: bool = False,
    image_key: str | None = None,
    task: TaskName | None = None,
) -> Recipe:
    """The recipe that ``train`` would take for a dataset; ``dataclasses.replace`` changes single values.

    Args:
        data, model, pretrained: as for ``train``.
        task: ``classification``, one label for a picture, or ``multi_label``, any number; what the data have when not
            given.
        quantization_aware: fine-tune weights that are good in float32 for 8 bits.
        image_key: of tar shards with several images under one key, the extension of the one that is meant.

    Raises:
        DataError, CheckpointError: as for ``train``.
    """
    train = open_datasets(data, image_key=image_key, task=task).train
    start = {"model": model, "head_start": Recipe.head_start, **_start(pretrained)}
    recipe = default_recipe(
        start["model"],
        len(train),
        start["pretrained"],
        quantization_aware,
        task=task_of_labels(train),
        head_start=start["head_start"],
    )
    return replace(recipe, image_key=image_key, task=task, **start)


def read_recipe(file: str | Path) -> Recipe:
    """A recipe from a YAML file, such as a run folder's ``recipe.yaml``; keys that it lacks have their defaults.

    Raises:
        ArgumentError: the file cannot be read, or has a key or a value that cannot be; the message names both.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        values = parser.instantiate(parser.parse_path(file)).as_dict()
        return Recipe(**values)
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ArgumentError(f"{file}: not a recipe: {reason}") from None


def _start(pretrained: bool | str | Path) -> dict[str, Any]:
    """What to start from, as a recipe spells it; of a taught file also how it prepares images."""
    if isinstance(pretrained, bool):
        return {"pretrained": "hub" if pretrained else None}
    if str(pretrained).lower().endswith(".onnx"):
        from shvit.training.continuation import continue_from

        return continue_from(pretrained).values
    return {"pretrained": str(pretrained)}


def run_folder(resume: bool) -> Path:
    """Where a run goes for which no folder is named: one that nothing has yet; to resume, the last that there is."""
    folder, number, last = FOLDER, 1, FOLDER
    while os.path.lexists(folder):
        last, number = folder, number + 1
        folder = FOLDER.with_name(f"{FOLDER.name}-{number}")
    return last if resume else folder


def carry_out(plan: TrainingPlan, progress: bool = False) -> TrainedRun:
    """Trains as planned, or goes on with it.

    Args:
        progress: tell on stderr what is trained on, and how far it is.

    Raises:
        As ``train``.
    """
    check_guarded(plan.execution.workers)
    _check_folder(plan)
    val = plan.datasets.val
    if not has_images(val.labels, val.classes).any():  # every epoch would be as good as any other
        raise DataError(f"{val.name}: none of its {len(val):,} validation images has a label; fill some in")
    with warnings.catch_warnings():
        # Which replaces the head as well.
        if plan.recipe.head_start == "linear" or (plan.resume and checkpoint.checkpoints(plan.folder)):
            warnings.filterwarnings("ignore", message=".*head is fresh")
        run = setup(plan.recipe, plan.datasets.train, plan.datasets.val, plan.folder, plan.execution)
    from shvit.runs.logs import RunLog  # here, because TensorBoard takes seconds to import

    with only_run(run):
        resumed = plan.resume and checkpoint.resume(run)
        notes = _notes(plan, run, resumed)
        if progress and run.fabric.is_global_zero:
            for line in notes:
                say(line, sys.stderr)
        with RunLog(run, wandb=plan.wandb, progress=progress) as log:
            reached = fit(run, log)
    several = has_several(run.train.labels)
    return TrainedRun(
        folder=plan.folder,
        best=plan.folder / "best.safetensors",
        last=plan.folder / "last.safetensors",
        recipe=plan.recipe,
        top1=None if several else reached.best_score,
        mean_average_precision=reached.best_score if several else None,
        loss=reached.best_loss,
        best_epoch=reached.best_epoch,
        epochs=reached.epoch,
        broken=tuple(run.broken.found.values()),
        skipped=reached.skipped,
        notes=notes,
        is_first=run.fabric.is_global_zero,
    )


def _check_folder(plan: TrainingPlan) -> None:
    """Raises: ArgumentError: the folder holds a run already, or the run would write over what it reads."""
    held = bool(checkpoint.checkpoints(plan.folder))
    if held and not plan.resume and os.environ.get("LOCAL_RANK", "0") == "0":
        raise ArgumentError(f"--output {plan.folder}: holds a run already; add --resume auto, or give another folder")
    given = plan.recipe.distillation
    inputs = [plan.data, *(each for each in (plan.recipe.pretrained, given.teacher, given.teacher_weights) if each)]
    names = ["best.safetensors", "last.safetensors", METRICS, ENVIRONMENT, CURVES]
    check_outputs([("--output", plan.folder / name) for name in names], inputs)
    if not held:  # else it is the recipe that the run goes on with
        check_outputs([("--output", plan.folder / RECIPE)], plan.recipe_files)


def _notes(plan: TrainingPlan, run: Run, resumed: bool) -> tuple[str, ...]:
    recipe, (train, val, note) = plan.recipe, plan.datasets
    if not resumed:
        begins = describe(recipe, len(train), plan.chosen)
    elif is_finished(run):
        begins = f"finished already, after epoch {run.progress.epoch} of {recipe.epochs}: nothing is left to train"
    else:
        begins = f"going on from epoch {run.progress.epoch + 1} of {recipe.epochs}, step {run.progress.step + 1}"
    # Of one label each, a class without training images is refused.
    unseen = describe_missing(train.labels, train.classes, "which cannot be learnt")
    lines = (
        note or f"validation: {short_path(val.name)}",
        unseen and f"training: {unseen}",
        describe_alignment(val),
        describe_unread(left_out(train, val)),
        f"{recipe.model}: {len(train):,} training and {len(val):,} validation images, "
        f"{len(train.classes)} classes; {run.fabric.world_size} x {run.fabric.device.type}",
        begins,
        "the head is fitted first, to the features of the training images" if run.fits_head and not resumed else None,
    )
    return tuple(line for line in lines if line)
