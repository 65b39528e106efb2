"""The tasks that `train_dataset.path` may name."""

from __future__ import annotations

from areal_cppo.errors import UserError
from areal_cppo.training.config import CPPOConfig


def load_task(config: CPPOConfig):
    """The task that the configuration names (`areal_cppo.training.controller.Task`)."""
    name = config.train_dataset.path
    if name == "triangles":
        from areal_cppo.triangles.experiment import TriangleTask

        return TriangleTask(config)
    raise UserError(
        f"train_dataset.path: expected one of triangles, found {name!r}; "
        "see configs/triangles.yaml"
    )
