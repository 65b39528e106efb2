"""Accuracy on held-out problems, before, during and after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from areal_cppo.folder import RunFolder, read_lines

Say = Callable[..., None]


class Task(Protocol):
    """What an experiment needs to know of its data."""

    workflow_kwargs: dict[str, Any]

    def train_dataset(self): ...

    def evaluate(self, checkpoint: Path) -> dict[str, Any] | None:
        """Held-out accuracy of a checkpoint, or `None` where the task has none."""

    def write_samples(self, folder: RunFolder, checkpoints: dict[str, Path]) -> None:
        """A few responses of each checkpoint, token by token."""


class HeldOut:
    """Observer that evaluates on held-out problems every so many steps."""

    def __init__(self, task: Task, folder: RunFolder, say: Say, every: int):
        self.task = task
        self.folder = folder
        self.say = say
        self.every = every
        done = read_lines(folder.evaluations)
        self.evaluated = {record["step"] for record in done}
        self.trainer = None  # set once it is there

    def evaluate(self, step: int, checkpoint: Path) -> None:
        result = self.task.evaluate(checkpoint)
        self.evaluated.add(step)
        if result is None:
            return
        self.folder.append(self.folder.evaluations, {"step": step, **result})
        self.say("evaluation", step=step, accuracy=result["accuracy"], n=result["n"])

    def checkpoint(self, step: int) -> Path:
        folder = self.folder.checkpoints / f"step-{step:05d}"
        return folder if folder.is_dir() else self.trainer.save_checkpoint(folder)

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        if self.every and step % self.every == 0:
            self.evaluate(step, self.checkpoint(step))
