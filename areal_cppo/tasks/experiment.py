"""The task of an experiment: a synthetic one, or real data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from areal_cppo.config import SOURCES, TASK_NAMES
from areal_cppo.config.experiment import CPPOConfig, workflow_kwargs
from areal_cppo.data.task import ProblemTask
from areal_cppo.errors import UserError
from areal_cppo.rewards.own import check_function
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import load_model
from areal_cppo.tasks.problems import (
    TOLD,
    DrawnProblem,
    ReadingDataset,
    ReadingTask,
    reading_task,
)
from areal_cppo.tasks.responses import REWARD_FN

HELDOUT_SEED = 0  # the same problems whatever the run's seed


class ReadingExperiment:
    """What the controller asks of a task (`areal_cppo.run.observers.Task`)."""

    def __init__(self, config: CPPOConfig, task: ReadingTask):
        unknown = set(config.reward.sees) - set(TOLD)
        if unknown:
            raise UserError(
                f"reward.sees: expected some of {', '.join(TOLD)}, found "
                f"{', '.join(sorted(unknown))}; a synthetic task has no other columns"
            )
        self.config = config
        self.task = task
        self.workflow_kwargs = workflow_kwargs(
            config, config.reward.function or REWARD_FN
        )

    def train_dataset(self) -> ReadingDataset:
        """As many problems as the run can use: none is seen twice."""
        config = self.config
        steps = config.total_train_steps or 1
        in_flight = config.rollout.max_head_offpolicyness + 2
        size = (steps + in_flight) * config.train_dataset.batch_size
        processor = AutoProcessor.from_pretrained(config.tokenizer_path)
        return ReadingDataset(self.task, processor, size, config.seed, "train")

    def valid_dataset(self) -> None:
        """None: its held-out problems are measured without servers (`evaluate`)."""

    def heldout(self, count: int) -> list[DrawnProblem]:
        shift = self.config.heldout.shift
        return [
            self.task.make_problem(HELDOUT_SEED, index, "held_out", shift)
            for index in range(count)
        ]

    def heldout_dataset(self, processor: ProcessorMixin, size: int) -> ReadingDataset:
        """The same problems, as a workflow takes them."""
        shift = self.config.heldout.shift
        return ReadingDataset(
            self.task, processor, size, HELDOUT_SEED, "held_out", shift
        )

    def evaluate(self, checkpoint: Path) -> dict[str, Any]:
        """Greedy accuracy on the held-out problems, in this process.

        `correct` has a character per problem, 1 where its answer is right, so that two
        checkpoints can be compared problem by problem.
        """
        problems = self.heldout(self.config.heldout.size)
        return sampling.evaluate(load_model(checkpoint), problems)


def load_task(
    config: CPPOConfig,
    note: Callable[[str], None] = logging.getLogger("CPPOTask").info,
) -> ReadingExperiment | ProblemTask:
    """The task of an experiment (`areal_cppo.run.observers.Task`).

    Parameters
    ----------
    note
        Told in a line what is found in the data, and before what takes long.

    Raises
    ------
    UserError
        `train_dataset.path` and `data.source` name different things, or the reward
        function can't be called.
    """
    if config.reward.function:
        check_function(config.reward.function, config.reward.sees)
    path, source = config.train_dataset.path, config.data.source
    if path == source and path in TASK_NAMES:
        return ReadingExperiment(config, reading_task(path))
    for name in (path, source):
        if name in TASK_NAMES:
            real = ", ".join(name for name in SOURCES if name not in TASK_NAMES)
            raise UserError(
                "train_dataset.path, data.source: expected both or neither to be "
                f"{name}, found {path!r} and {source!r}; set data.source to the same "
                f"or, for other data, to its schema, one of {real}"
            )
    return ProblemTask(config, note)
