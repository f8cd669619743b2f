"""What a model answers: one of its classes, or any number of them. Commands ask the task; none looks for its name."""

from __future__ import annotations

from shvit.card import Card, TaskName
from shvit.tasks.classification import Classification
from shvit.tasks.multi_label import MultiLabel
from shvit.tasks.task import Answering, Judged, Task

__all__ = ["TASKS", "Answering", "Judged", "Task", "task_of"]

TASKS: dict[TaskName, Task] = {each.name: each for each in (Classification(), MultiLabel())}


def task_of(card: Card) -> Task:
    """The task of a model file."""
    return TASKS[card.task]
