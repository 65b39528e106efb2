"""The task that a configuration names: a synthetic one, or real data."""

from __future__ import annotations

import logging
from collections.abc import Callable

from areal_cppo.config.data import SOURCES
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import UserError
from areal_cppo.tasks.registry import TASK_NAMES, reading_task


def load_task(
    config: CPPOConfig,
    note: Callable[[str], None] = logging.getLogger("CPPOTask").info,
):
    """The task of an experiment (`areal_cppo.run.heldout.Task`).

    Parameters
    ----------
    note
        Told in a line what is found in the data, and before what takes long.

    Raises
    ------
    UserError
        `train_dataset.path` and `data.source` name different things.
    """
    path, source = config.train_dataset.path, config.data.source
    if path == source and path in TASK_NAMES:
        from areal_cppo.tasks.experiment import ReadingExperiment

        return ReadingExperiment(config, reading_task(path))
    for name in (path, source):
        if name in TASK_NAMES:
            real = ", ".join(name for name in SOURCES if name not in TASK_NAMES)
            raise UserError(
                "train_dataset.path, data.source: expected both or neither to be "
                f"{name}, found {path!r} and {source!r}; set data.source to the same "
                f"or, for other data, to its schema, one of {real}"
            )
    from areal_cppo.data.task import ProblemTask

    return ProblemTask(config, note)
