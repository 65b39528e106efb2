"""The Contrastive Perception Loss as a step: CPPO, and CPL alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from areal_cppo.core.head import Projection
from areal_cppo.step.micro_batches import PASSES
from areal_cppo.step.objectives.base import ObjectiveStep, Output, Parts
from areal_cppo.step.packing import PackedRow
from areal_cppo.step.perception import (
    Hidden,
    PerceptionLoss,
    Selection,
    nonfinite_tokens,
)
from areal_cppo.step.perception_stats import record_row


@dataclass(frozen=True)
class Compared:
    """A row's perception tokens and both views' divergences there, `[N]`."""

    row: PackedRow
    selection: Selection
    to_positive: Tensor
    to_negative: Tensor


class CPLStep(ObjectiveStep):
    """A step with the Contrastive Perception Loss."""

    scope = "cpl"

    def __init__(self, parts: Parts, batch: dict[str, Any]):
        config = parts.config.cpl
        views = {
            "positive": config.views.positive,
            "negative": config.views.negative,
        }
        super().__init__(parts, batch, views, config.gate)
        self.config = config
        self.normalizer = self.gated.responses
        self.perception = PerceptionLoss(
            config,
            view_seed=parts.config.view_seed,
            temperature=parts.passes.temperature,
            vocabulary=parts.passes.tap.vocabulary,
        )

    def prepare(self, mbs: Sequence[dict[str, Any]]) -> None:
        """Aggregation `token` divides by the perception tokens of all ranks, so the
        anchor's and the negative view's forward passes run once more to count them."""
        if self.config.aggregation != "token":
            return
        counts = [self._count(mb) for mb in mbs if mb[PASSES].view is not None]
        total = self.parts.ranks.sum(torch.stack(counts).sum())
        self.normalizer = max(1, int(total))

    def run(self, mb: dict[str, Any]) -> Output:
        """Both views' passes and the anchor's."""
        passes, row = mb[PASSES], self.row(mb)
        negative, positive = (
            self.view(mb, row, kind, has_grad=kind in self.config.grad)
            for kind in ("negative", "positive")
        )
        at_gate = row.gate[passes.needed].nonzero().flatten()
        selections = []

        def compare(hidden: Tensor, project: Projection, _) -> tuple[Tensor, Tensor]:
            at = Hidden(hidden[at_gate], positive, negative)
            selections.append(self._select(at.anchor, negative, project, row))
            # Enabled where the views' passes had no graph, too: the anchor has one.
            return self.perception.divergences(at, project, row, selections[0])

        statistics, divergences = self.parts.passes.anchor(passes, mb, compare)
        return Output(statistics, Compared(row, *selections, *divergences))

    def add(
        self, loss: Tensor, output: Output, logprobs: Tensor, multiplier: float
    ) -> Tensor:
        """With the micro-batch's part of CPL, unless it isn't finite on some rank."""
        views, parts = output.views, self.parts
        row, selection = views.row, views.selection
        result = self.perception(
            views.to_positive,
            views.to_negative,
            logprobs,
            row,
            selection,
            version=parts.version,
            normalizer=self.normalizer,
        )
        nonfinite = nonfinite_tokens(row, selection, result)
        # Not a number in a view's pass would reach the parameters even with a gradient
        # of zero, and a rank that left its backward pass out would keep others waiting.
        skipped = parts.ranks.any(nonfinite.any())
        limit = self.config.staleness.max_staleness
        record_row(row, selection, result, nonfinite, skipped, limit, parts.version)
        if skipped:
            parts.meter.skipped()
            return loss
        parts.meter.gains(selection.gain)
        return loss + self.config.coef * multiplier * result.loss

    def _select(
        self, anchor: Tensor, negative: Tensor, project: Projection, row: PackedRow
    ) -> Selection:
        return self.perception.select(
            anchor, negative, project, row, self.parts.version
        )

    def _count(self, mb: dict[str, Any]) -> Tensor:
        """How many tokens of a micro-batch `run` would select: int64, no dimension."""
        row = self.row(mb)
        negative = self.view(mb, row, "negative", has_grad=False)

        def count(hidden: Tensor, project: Projection) -> Tensor:
            return self._select(hidden, negative, project, row).chosen.sum()

        return self.parts.passes.at_gate(mb[PASSES], row, count)
