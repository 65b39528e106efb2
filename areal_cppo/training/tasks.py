"""The task that a configuration names: the embedded one, or real data."""

from __future__ import annotations

import logging
from collections.abc import Callable

from areal_cppo.data.config import SOURCES
from areal_cppo.errors import UserError
from areal_cppo.training.config import CPPOConfig


def load_task(
    config: CPPOConfig,
    note: Callable[[str], None] = logging.getLogger("CPPOTask").info,
):
    """The task of an experiment (`areal_cppo.training.heldout.Task`).

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
    if path == source == "triangles":
        from areal_cppo.triangles.experiment import TriangleTask

        return TriangleTask(config)
    if "triangles" in (path, source):
        real = ", ".join(name for name in SOURCES if name != "triangles")
        raise UserError(
            "train_dataset.path, data.source: expected both or neither to be "
            f"triangles, found {path!r} and {source!r}; set data.source to the data's "
            f"schema, one of {real}"
        )
    from areal_cppo.data.task import ProblemTask

    return ProblemTask(config, note)
