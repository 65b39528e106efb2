"""VPPO (arXiv 2510.09285) as a step: the policy loss on other advantages.

What each token's and each response's dependency on the image is has to be known of the
whole batch before the loss, so both views' forward passes run once before, without a
graph. The update itself is GRPO's, with no view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import (
    advantage_factors,
    response_dependency,
    select_dependent_tokens,
    view_divergence,
)
from areal_cppo.core.divergence import cut_off
from areal_cppo.core.head import Projection
from areal_cppo.metrics import UPDATE, Metric, by_name, share
from areal_cppo.step.gate import gate_metrics
from areal_cppo.step.objectives.base import Objective, Parts
from areal_cppo.step.objectives.tokens import GatedTokens
from areal_cppo.step.pack import MicroBatch
from areal_cppo.step.token_metrics import (
    TokenRecord,
    and_none,
    record_counts,
    record_means,
)

METRICS = (
    Metric(
        "vppo_dependency",
        "VPPO, dependency",
        "nats",
        "How far the prediction moves under the negative view, mean over tokens.",
        key=f"{UPDATE}vppo/dependency",
    ),
    Metric(
        "vppo_kept_dependency",
        "VPPO, dependency kept",
        "nats",
        "The same of the tokens that keep their policy gradient.",
        key=f"{UPDATE}vppo/kept_dependency",
    ),
    Metric(
        "vppo_filtered_dependency",
        "VPPO, dependency filtered",
        "nats",
        "The same of the tokens that have none; close to the kept ones' means that "
        "filtering hardly tells tokens apart.",
        key=f"{UPDATE}vppo/filtered_dependency",
    ),
    Metric(
        "vppo_kept_tokens",
        "VPPO, tokens kept",
        "tokens",
        "Tokens that keep their policy gradient.",
        key=f"{UPDATE}vppo/kept_tokens",
    ),
    Metric(
        "vppo_kept_share",
        "VPPO, share kept",
        "share",
        "The same as a share of the tokens: vppo.top_fraction, rounded up in each "
        "response.",
        derive=share("vppo_kept_tokens", "vppo_tokens"),
    ),
    Metric(
        "vppo_response_dependency_mean",
        "VPPO, response dependency",
        "nats",
        "Mean dependency of a response's tokens, mean over responses.",
        key=f"{UPDATE}vppo/response_dependency/avg",
    ),
    Metric(
        "vppo_response_dependency_lowest",
        "VPPO, lowest response dependency",
        "nats",
        "That of the step's least dependent response.",
        key=f"{UPDATE}vppo/response_dependency/min",
    ),
    Metric(
        "vppo_response_dependency_highest",
        "VPPO, highest response dependency",
        "nats",
        "That of its most dependent one; one far above all others leaves the rest near "
        "the lowest factor.",
        key=f"{UPDATE}vppo/response_dependency/max",
    ),
    Metric(
        "vppo_factor_mean",
        "VPPO, factor",
        "",
        "What a response's advantage is multiplied by, mean over responses; 1 with a "
        "dynamic vppo.beta_max.",
        key=f"{UPDATE}vppo/factor/avg",
    ),
    Metric(
        "vppo_factor_lowest",
        "VPPO, lowest factor",
        "",
        "That of the step's least dependent response: vppo.beta_min, or 1 if all "
        "depend alike.",
        key=f"{UPDATE}vppo/factor/min",
    ),
    Metric(
        "vppo_factor_highest",
        "VPPO, highest factor",
        "",
        "That of its most dependent one.",
        key=f"{UPDATE}vppo/factor/max",
    ),
    Metric(
        "vppo_nonfinite_responses",
        "VPPO, non-finite responses",
        "responses",
        "Responses with a dependency that was not finite: their advantage is left as "
        "it is; always 0 in a healthy run.",
        key=f"{UPDATE}vppo/nonfinite_responses",
    ),
    *gate_metrics("vppo", "VPPO", "all"),
)
_OF = {name.removeprefix("vppo_"): metric for name, metric in by_name(METRICS).items()}


@dataclass(frozen=True)
class Scored:
    """A micro-batch, how much its tokens depend on the image, and its responses.

    Attributes
    ----------
    micro_batch, tokens
        All tokens of responses with a view are gated.
    dependency
        fp32 `[G]`, nats.
    of_response
        fp64, one a response, nats; not a number where there is none.
    """

    micro_batch: MicroBatch
    tokens: GatedTokens
    dependency: Tensor
    of_response: Tensor

    @property
    def usable(self) -> Tensor:
        """Which of the tokens belong to a response with a dependency: bool `[G]`."""
        return self.of_response.isfinite()[self.tokens.sequences[self.tokens.at]]


@dataclass(frozen=True)
class Spread:
    """Response dependencies of the global batch, nats; infinite if it has none."""

    lowest: float
    highest: float
    mean: float


class VPPOObjective(Objective):
    """A step with token-level gradient filtering and trajectory-level shaping."""

    scope = "vppo"

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.config = parts.config.vppo
        super().__init__(parts, padded)

    @classmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        return {"negative": config.vppo.views}

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Score all tokens, then change the micro-batches' advantages."""
        scored = [self._score(mb) for mb in micro_batches if mb.view is not None]
        spread = self._spread(scored)
        for item in scored:
            self._shape(item, spread)

    def _score(self, micro_batch: MicroBatch) -> Scored:
        tokens, config = self.tokens(micro_batch), self.config
        negative = self.view(micro_batch, tokens, "negative", has_grad=False)
        model, labels = self.parts.model, tokens.labels[tokens.at]

        def score(hidden: Tensor, project: Projection) -> Tensor:
            dependency = view_divergence(
                hidden, negative, project, labels, config.dependency, model.temperature
            )
            return cut_off(dependency, config.max_dependency)

        dependency = model.anchor_at(micro_batch, tokens.gate, score)
        of_response = response_dependency(
            dependency, tokens.sequences[tokens.at], len(tokens.responses)
        )
        return Scored(micro_batch, tokens, dependency, of_response)

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
        config, tokens, data = self.config, item.tokens, item.micro_batch.data
        factors = advantage_factors(
            item.of_response,
            lowest=batch.lowest,
            highest=batch.highest,
            mean=batch.mean,
            beta_min=config.beta_min,
            beta_max=config.beta_max,
        )
        usable = item.usable
        dependency, at = item.dependency[usable], tokens.at[usable]
        chosen = select_dependent_tokens(
            dependency, tokens.sequences[at], config.top_fraction
        )
        kept = torch.ones_like(tokens.gate)
        kept[at] = chosen
        shaped = data["advantages"] * factors[tokens.sequences] * kept
        data["advantages"] = shaped.to(data["advantages"].dtype)
        self._record(item, factors, dependency, at, chosen)

    def _record(
        self,
        item: Scored,
        factors: Tensor,
        dependency: Tensor,
        at: Tensor,
        chosen: Tensor,
    ) -> None:
        record, passed = TokenRecord(item.tokens.gate), item.tokens.responses
        tokens, kept = record.mask(at), record.mask(at, chosen)
        known = item.of_response.isfinite()
        record_counts(
            {
                _OF["view_sequences"]: and_none(passed),
                "vppo/responses": and_none(known),
                _OF["nonfinite_responses"]: and_none(passed & ~known),
                _OF["tokens"]: tokens,
                _OF["kept_tokens"]: kept,
                "vppo/filtered_tokens": tokens & ~kept,
            }
        )
        for over, name in (
            (_OF["tokens"], "dependency"),
            (_OF["kept_tokens"], "kept_dependency"),
            ("vppo/filtered_tokens", "filtered_dependency"),
        ):
            record_means(over, {_OF[name]: record.at(at, dependency)})
        # Mean, least and largest.
        values = {
            "vppo/response_dependency": item.of_response.nan_to_num().float(),
            "vppo/factor": factors.float(),
        }
        values = {k: torch.nn.functional.pad(v, (0, 1)) for k, v in values.items()}
        record_means("vppo/responses", values, ReduceType.AVG_MIN_MAX)


OBJECTIVE = VPPOObjective
