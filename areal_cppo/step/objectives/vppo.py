"""VPPO (arXiv 2510.09285) as a step: the policy loss on other advantages.

What each token's and each response's dependency on the image is has to be known of the
whole batch before the loss, so both views' forward passes run once before, without a
graph. The update itself is GRPO's, with no view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.core import (
    advantage_factors,
    response_dependency,
    select_dependent_tokens,
    view_divergence,
)
from areal_cppo.core.divergence import cut_off
from areal_cppo.core.head import Projection
from areal_cppo.step.micro_batches import PASSES
from areal_cppo.step.objectives.base import ObjectiveStep, Output, Parts
from areal_cppo.step.packing import PackedRow
from areal_cppo.step.perception_stats import and_none, spread


@dataclass(frozen=True)
class Scored:
    """A micro-batch, how much its tokens depend on the image, and its responses."""

    mb: dict[str, Any]
    row: PackedRow
    at: Tensor  # int64 [G]: positions of the tokens of responses with a view
    dependency: Tensor  # fp32 [G], nats
    of_response: Tensor  # fp64 [S], nats; not a number where there is none

    @property
    def usable(self) -> Tensor:
        """Which of the tokens belong to a response with a dependency: bool `[G]`."""
        return self.of_response.isfinite()[self.row.sequences[self.at]]


@dataclass(frozen=True)
class Spread:
    """Response dependencies of the global batch, nats; infinite if it has none."""

    lowest: float
    highest: float
    mean: float


class VPPOStep(ObjectiveStep):
    """A step with token-level gradient filtering and trajectory-level shaping."""

    scope = "vppo"

    def __init__(self, parts: Parts, batch: dict[str, Any]):
        self.config = parts.config.vppo
        super().__init__(parts, batch, {"negative": self.config.views}, gate="none")

    def prepare(self, mbs: Sequence[dict[str, Any]]) -> None:
        """Score all tokens, then change the micro-batches' advantages."""
        scored = [self._score(mb) for mb in mbs if mb[PASSES].view is not None]
        spread_ = self._spread(scored)
        for item in scored:
            self._shape(item, spread_)

    def run(self, mb: dict[str, Any]) -> Output:
        """The anchor's pass: the views had theirs."""
        statistics, _ = self.parts.passes.anchor(mb[PASSES], mb)
        return Output(statistics)

    def add(
        self, loss: Tensor, output: Output, logprobs: Tensor, multiplier: float
    ) -> Tensor:
        """The policy loss as it is."""
        return loss

    def _score(self, mb: dict[str, Any]) -> Scored:
        row = self.row(mb)
        at = row.gate.nonzero().flatten()
        negative = self.view(mb, row, "negative", has_grad=False)

        def score(hidden: Tensor, project: Projection) -> Tensor:
            dependency = view_divergence(
                hidden,
                negative,
                project,
                row.labels[at],
                self.config.dependency,
                self.parts.passes.temperature,
            )
            return cut_off(dependency, self.config.max_dependency)

        dependency = self.parts.passes.at_gate(mb[PASSES], row, score)
        of_response = response_dependency(
            dependency, row.sequences[at], len(row.responses)
        )
        return Scored(mb, row, at, dependency, of_response)

    def _spread(self, scored: Sequence[Scored]) -> Spread:
        """Of all ranks' responses with a dependency."""
        known = torch.cat([item.of_response for item in scored])
        known = known[known.isfinite()]
        infinity = known.new_full((1,), torch.inf)
        ends = torch.stack(
            [-torch.cat([known, infinity]).min(), torch.cat([known, -infinity]).max()]
        )
        lowest, highest = self.parts.ranks.largest(ends).tolist()
        sums = torch.stack([known.sum(), known.new_tensor(len(known))])
        total, count = self.parts.ranks.sum(sums).tolist()
        return Spread(-lowest, highest, total / max(count, 1.0))

    def _shape(self, item: Scored, batch: Spread) -> None:
        """Multiply a micro-batch's advantages by factor and mask, and record both."""
        config, row, mb = self.config, item.row, item.mb
        factors = advantage_factors(
            item.of_response,
            lowest=batch.lowest,
            highest=batch.highest,
            mean=batch.mean,
            beta_min=config.beta_min,
            beta_max=config.beta_max,
        )
        usable = item.usable
        dependency, at = item.dependency[usable], item.at[usable]
        chosen = select_dependent_tokens(
            dependency, row.sequences[at], config.top_fraction
        )
        kept = torch.ones_like(row.gate)
        kept[at] = chosen
        shaped = mb["advantages"] * factors[row.sequences] * kept
        mb["advantages"] = shaped.to(mb["advantages"].dtype)
        self._record(item, factors, dependency, at, chosen)

    def _record(
        self,
        item: Scored,
        factors: Tensor,
        dependency: Tensor,
        at: Tensor,
        chosen: Tensor,
    ) -> None:
        """With AReaL's stats tracker, under `vppo/`."""
        row = item.row
        in_row = partial(spread, and_none(row.gate), at)
        tokens = in_row(torch.ones_like(chosen)).bool()
        kept = in_row(chosen).bool()
        known = item.of_response.isfinite()
        stats_tracker.denominator(
            **{
                "vppo/view_sequences": and_none(row.responses),
                "vppo/responses": and_none(known),
                "vppo/nonfinite_responses": and_none(row.responses & ~known),
                "vppo/tokens": tokens,
                "vppo/kept_tokens": kept,
                "vppo/filtered_tokens": tokens & ~kept,
            }
        )
        for name in ("tokens", "kept_tokens", "filtered_tokens"):
            stat = name.replace("tokens", "dependency")
            stats_tracker.stat(
                **{f"vppo/{stat}": in_row(dependency)},
                denominator=f"vppo/{name}",
                reduce_type=ReduceType.AVG,
            )
        stats_tracker.stat(  # mean, least and largest
            **{
                "vppo/response_dependency": _and_zero(item.of_response.nan_to_num()),
                "vppo/factor": _and_zero(factors),
            },
            denominator="vppo/responses",
        )


def _and_zero(values: Tensor) -> Tensor:
    """As `and_none`, of numbers: fp32."""
    return torch.nn.functional.pad(values.float(), (0, 1))
