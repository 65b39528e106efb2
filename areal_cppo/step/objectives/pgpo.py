"""PGPO (arXiv 2604.01840) as a step: the policy loss with each token's own weight.

Weights are made of a response's own scores, so that, other than VPPO's, nothing has to
be known of the whole batch: the view's pass has no graph, the anchor's is that of the
policy loss, and advantages are weighted between the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import dependency_positions, perception_weights, view_divergence
from areal_cppo.core.divergence import cut_off
from areal_cppo.metrics import UPDATE, Metric, by_name, share
from areal_cppo.step.gate import gate_metrics
from areal_cppo.step.objectives.base import Objective, Parts
from areal_cppo.step.objectives.tokens import GatedTokens, at_gate
from areal_cppo.step.pack import MicroBatch
from areal_cppo.step.token_metrics import (
    TokenRecord,
    and_none,
    record_counts,
    record_means,
)

METRICS = (
    Metric(
        "pgpo_dependency",
        "PGPO, dependency",
        "nats",
        "How far the prediction moves without the image, mean over tokens.",
        key=f"{UPDATE}pgpo/dependency",
    ),
    Metric(
        "pgpo_raised_tokens",
        "PGPO, tokens raised",
        "tokens",
        "Tokens from pgpo.tau on, whose advantage counts more than that of others.",
        key=f"{UPDATE}pgpo/raised_tokens",
    ),
    Metric(
        "pgpo_raised_share",
        "PGPO, share raised",
        "share",
        "The same as a share of the tokens; a small one has nearly all the weight.",
        derive=share("pgpo_raised_tokens", "pgpo_tokens"),
    ),
    Metric(
        "pgpo_weight_highest",
        "PGPO, highest weight",
        "",
        "Highest weight of a token's advantage in the step; a response's mean is 1.",
        key=f"{UPDATE}pgpo/weight/max",
    ),
    Metric(
        "pgpo_even_responses",
        "PGPO, even responses",
        "responses",
        "Responses whose tokens all depend alike on the image, those of one token "
        "included: their advantages are left as they are.",
        key=f"{UPDATE}pgpo/even_responses",
    ),
    Metric(
        "pgpo_nonfinite_responses",
        "PGPO, non-finite responses",
        "responses",
        "Responses with a dependency that was not finite: their advantages are left as "
        "they are; always 0 in a healthy run.",
        key=f"{UPDATE}pgpo/nonfinite_responses",
    ),
    *gate_metrics("pgpo", "PGPO", "all"),
)
_OF = {name.removeprefix("pgpo_"): metric for name, metric in by_name(METRICS).items()}


class Weighed(NamedTuple):
    """How much the gated tokens depend on the image, and what that makes of them: fp32
    and twice fp64 `[G]`, no gradient."""

    dependency: Tensor
    positions: Tensor
    weights: Tensor


class PGPOObjective(Objective):
    """A step on advantages that are shared out among a response's tokens."""

    scope = "pgpo"

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.config = parts.config.pgpo
        super().__init__(parts, padded)

    @classmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        return {"negative": config.pgpo.views}

    def look(self, micro_batch: MicroBatch, tokens: GatedTokens) -> Tensor:
        """Hidden states `[G, D]` of the negative view."""
        return self.view(micro_batch, tokens, "negative", has_grad=False)

    @torch.no_grad()
    def compare(
        self, micro_batch, tokens, views: Tensor, hidden, project, statistics
    ) -> Weighed:
        """Dependencies and weights of the gated tokens."""
        config, at = self.config, tokens.at
        dependency = view_divergence(
            hidden[at_gate(micro_batch, tokens)],
            views,
            project,
            tokens.labels[at],
            config.dependency,
            self.parts.model.temperature,
        )
        dependency = cut_off(dependency, config.max_dependency)
        sequences = tokens.sequences[at]
        positions = dependency_positions(dependency, sequences)
        weights = perception_weights(positions, sequences, config.tau, config.beta)
        return Weighed(dependency, positions, weights)

    def shape(
        self, micro_batch: MicroBatch, tokens: GatedTokens, compared: Weighed
    ) -> None:
        """Multiply the advantages of the gated tokens by their weights."""
        advantages = micro_batch.data["advantages"].clone()
        weights = compared.weights.to(advantages.dtype)
        advantages[tokens.at] *= weights
        micro_batch.data["advantages"] = advantages
        self._record(tokens, compared)

    def _record(self, tokens: GatedTokens, compared: Weighed) -> None:
        record, at = TokenRecord(tokens.gate), tokens.at
        dependency, positions, weights = compared
        of_response = tokens.sequences[at]
        infinite, even = (torch.zeros_like(tokens.responses) for _ in range(2))
        infinite[of_response[~dependency.isfinite()]] = True
        even[of_response[positions.isnan()]] = True
        finite = dependency.isfinite() & ~infinite[of_response]
        record_counts(
            {
                _OF["view_sequences"]: and_none(tokens.responses),
                _OF["nonfinite_responses"]: and_none(infinite),
                _OF["even_responses"]: and_none(even & ~infinite),
                _OF["tokens"]: record.mask(at, finite),
                _OF["raised_tokens"]: record.mask(at, positions >= self.config.tau),
            }
        )
        dependency = record.at(at, dependency.nan_to_num())
        record_means(_OF["tokens"], {_OF["dependency"]: dependency})
        values = {"pgpo/weight": record.at(at, weights)}
        record_means(_OF["tokens"], values, ReduceType.AVG_MIN_MAX)


OBJECTIVE = PGPOObjective
