"""What each objective adds to AReaL's policy loss, one optimiser step at a time."""

from __future__ import annotations

from typing import Any

from areal_cppo.step.objectives.base import ObjectiveStep, Parts
from areal_cppo.step.objectives.cpl import CPLStep
from areal_cppo.step.objectives.papo import PAPOStep
from areal_cppo.step.objectives.vppo import VPPOStep

STEPS: dict[str, type[ObjectiveStep]] = {
    "cppo": CPLStep,
    "cpl": CPLStep,
    "papo": PAPOStep,
    "vppo": VPPOStep,
}


def start_step(parts: Parts, batch: dict[str, Any]) -> ObjectiveStep | None:
    """Begin an optimiser step on a batch; all ranks call it.

    `batch` is AReaL's padded one after `compute_advantages`. `None`: there is nothing
    to add on any rank.
    """
    if not parts.config.uses_views:
        return None
    step = STEPS[parts.config.objective](parts, batch)
    return step if step.gated.responses else None
