"""Synthetic tasks by name, imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from areal_cppo.errors import UserError

if TYPE_CHECKING:  # the command line names tasks without drawing anything
    from areal_cppo.tasks.task import ReadingTask

# Name -> module and attribute.
_TASKS = {
    "triangles": "areal_cppo.tasks.triangles.task:TRIANGLES",
    "charts": "areal_cppo.tasks.charts.task:CHARTS",
    "prior": "areal_cppo.tasks.triangles.task:PRIOR",
}
TASK_NAMES = tuple(_TASKS)


def reading_task(name: str) -> ReadingTask:
    """The task of a name.

    Raises
    ------
    UserError
        There is none of that name.
    """
    if name not in _TASKS:
        raise UserError(
            f"task: expected one of {', '.join(_TASKS)}, found {name!r}; correct it"
        )
    module, attribute = _TASKS[name].split(":")
    return getattr(import_module(module), attribute)
