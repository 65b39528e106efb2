"""How much a step's gradient varies from batch to batch, at one policy's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from areal_cppo.bench.train_step import train_step
from areal_cppo.step.actor import CPPOActor
from areal_cppo.studies.rollout import whole


def gradient_moments(
    actor: CPPOActor, batches: Iterable[list[dict[str, Any]]]
) -> dict[str, float]:
    """Make a step of each batch up to its gradient; weights and optimiser stay.

    Returns
    -------
    dict
        Unbiased, summed over parameters: `gradient_variance` of a batch's gradient, and
        `gradient_square`, the squared length of its mean.
    """
    found: list[torch.Tensor] = []

    def keep() -> dict[str, float]:
        own = [p.grad for p in actor.model.parameters() if p.grad is not None]
        found.append(torch.cat([whole(grad).double().flatten() for grad in own]))
        return {}

    actor.optimizer_step = keep  # in place of the method, for these batches
    actor.step_lr_scheduler = lambda: None
    try:
        for batch in batches:
            train_step(actor, batch)
            actor.export_stats()
    finally:
        del actor.optimizer_step, actor.step_lr_scheduler
        actor.optimizer_zero_grad()
    gradients = torch.stack(found)
    variance = float(gradients.var(0).sum())
    square = float(gradients.mean(0).square().sum()) - variance / len(found)
    return {"gradient_variance": variance, "gradient_square": square}
