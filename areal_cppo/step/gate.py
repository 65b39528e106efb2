"""The gate: which responses of a batch enter the view passes, before any pass runs.

Letters: `B` responses of a padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from areal_cppo.step.meter import Meter
from areal_cppo.step.packing import IMAGES, gate_tokens, has_image
from areal_cppo.step.perception_stats import record_gate
from areal_cppo.step.prompts import image_sets
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.views import ResponseViews, ViewMaker


@dataclass(frozen=True)
class GatedBatch:
    """The gate's verdict on one optimiser step's batch, agreed on by all ranks."""

    rows: torch.Tensor  # bool [B]: this rank's responses that pass
    entering: set[int]  # those that enter the view passes
    sets: list[int | None]  # per response the first one with the same images
    views: Mapping[int, ResponseViews]  # by those first ones
    responses: int  # those that pass, of all ranks


def apply_gate(
    batch: dict[str, Any],
    *,
    gate: str,
    gate_first: bool,
    make_views: ViewMaker,
    meter: Meter,
    version: int,
    ranks: Ranks,
    scope: str,
) -> GatedBatch:
    """Decide on a batch, and make the views of the responses that pass.

    Parameters
    ----------
    batch
        AReaL's padded batch after `compute_advantages`.
    gate
        As `gate_tokens` takes it.
    gate_first
        `actor.speed.gate_first`.
    make_views
        Called once for each distinct image.
    meter
        Told how long that takes.
    version
        Current policy version.
    ranks
        The data-parallel ranks, which all call this.
    scope
        Under which statistics are recorded.
    """
    passed = gate_tokens(batch, gate).any(-1)
    image = has_image(batch)
    candidates = (passed & image if gate_first else image).nonzero().flatten().tolist()
    images = batch.get(IMAGES) or [{}] * len(passed)
    sets = image_sets(images)
    distinct = dict.fromkeys(sets[row] for row in candidates)
    with meter.time("perturb"):
        views = make_views(images, distinct, version, ranks.device)
    of_row = {row: views[sets[row]] for row in candidates if passed[row]}
    record_gate(passed, image, of_row, make_views.kinds, scope)
    rows = torch.zeros_like(passed)
    rows[[row for row, view in of_row.items() if view.usable]] = True
    total = int(ranks.sum(rows.sum()))
    entering = set(rows.nonzero().flatten().tolist() if gate_first else candidates)
    return GatedBatch(rows.to(ranks.device), entering, sets, views, total)
