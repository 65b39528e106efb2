"""The gate: which responses of a batch enter the view passes, before any pass runs.

Letters: `B` responses of a padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from areal_cppo.training.config import CPPOActorConfig
from areal_cppo.training.meter import Meter
from areal_cppo.training.packing import IMAGES, gate_tokens, has_image
from areal_cppo.training.perception_stats import record_gate
from areal_cppo.training.prompts import image_sets
from areal_cppo.training.views import ResponseViews, ViewMaker


@dataclass
class GatedBatch:
    """The gate's verdict on one optimiser step's batch, agreed on by all ranks."""

    rows: torch.Tensor  # bool [B]: this rank's responses that pass
    entering: set[int]  # those that enter the view passes
    sets: list[int | None]  # per response the first one with the same images
    views: Mapping[int, ResponseViews]  # by those first ones
    normalizer: int  # gated responses (or, later, perception tokens) of all ranks


def apply_gate(
    batch: dict[str, Any],
    config: CPPOActorConfig,
    make_views: ViewMaker,
    meter: Meter,
    version: int,
    device: torch.device,
    group: dist.ProcessGroup,
) -> GatedBatch:
    """Decide on a batch, and make the views of the responses that pass.

    Parameters
    ----------
    batch
        AReaL's padded batch after `compute_advantages`.
    config
        The actor's.
    make_views
        Called once for each distinct image.
    meter
        Told how long that takes.
    version
        Current policy version.
    device
        Of the model.
    group
        The data-parallel ranks, which all call this.
    """
    passed = gate_tokens(batch, config.cpl.gate).any(-1)
    image = has_image(batch)
    first = config.speed.gate_first
    candidates = (passed & image if first else image).nonzero().flatten().tolist()
    images = batch.get(IMAGES) or [{}] * len(passed)
    sets = image_sets(images)
    distinct = dict.fromkeys(sets[row] for row in candidates)
    with meter.time("perturb"):
        views = make_views(images, distinct, version, device)
    of_row = {row: views[sets[row]] for row in candidates if passed[row]}
    record_gate(passed, image, of_row)
    rows = torch.zeros_like(passed)
    rows[[row for row, view in of_row.items() if view.usable]] = True
    total = rows.sum().to(device)
    dist.all_reduce(total, group=group)
    entering = set(rows.nonzero().flatten().tolist() if first else candidates)
    return GatedBatch(rows.to(device), entering, sets, views, int(total))
