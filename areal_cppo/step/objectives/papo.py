"""PAPO (arXiv 2507.06448) as a step: one view, over all tokens of all responses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.core import (
    TokenStatistics,
    aggregate_token_loss,
    hidden_entropy,
    papo_loss,
    perception_divergence,
    token_statistics,
    view_divergence,
)
from areal_cppo.core.divergence import cut_off
from areal_cppo.core.head import Projection
from areal_cppo.step.micro_batches import PASSES
from areal_cppo.step.objectives.base import ObjectiveStep, Output, Parts
from areal_cppo.step.packing import PackedRow, gate_tokens
from areal_cppo.step.perception import token_weights
from areal_cppo.step.perception_stats import and_none, spread


class Terms(NamedTuple):
    """What PAPO's loss is made of, at the `G` tokens of a row: fp32 `[G]` each."""

    divergence: Tensor
    anchor_entropy: Tensor
    negative_entropy: Tensor


@dataclass(frozen=True)
class Scored:
    """A row, PAPO's terms there, and both views' exact entropies, without gradient."""

    row: PackedRow
    at: Tensor  # int64 [G]: positions of the tokens
    terms: Terms
    entropies: tuple[Tensor, Tensor]  # anchor's and negative view's, [G]


class PAPOStep(ObjectiveStep):
    """A step with the Implicit Perception Loss and the Double Entropy Loss."""

    scope = "papo"

    def __init__(self, parts: Parts, batch: dict[str, Any]):
        self.config = parts.config.papo
        super().__init__(parts, batch, {"negative": self.config.views}, gate="none")
        self.normalizer = self.gated.responses
        if self.config.aggregation == "token":
            tokens = gate_tokens(batch, "none").to(self.gated.rows.device)
            self.normalizer = int(parts.ranks.sum(tokens[self.gated.rows].sum()))

    def prepare(self, mbs: Sequence[dict[str, Any]]) -> None:
        """Nothing: how many tokens count is known from the batch."""

    def run(self, mb: dict[str, Any]) -> Output:
        """The negative view's pass and the anchor's."""
        config, passes, row = self.config, mb[PASSES], self.row(mb)
        temperature = self.parts.passes.temperature
        grad = ("anchor", "negative") if config.negative_grad else ("anchor",)
        negative = self.view(mb, row, "negative", has_grad=config.negative_grad)
        at = row.gate.nonzero().flatten()
        labels = row.labels[at]
        at_gate = row.gate[passes.needed].nonzero().flatten()
        entropies = []

        def score(
            hidden: Tensor, project: Projection, statistics: TokenStatistics
        ) -> Terms:
            anchor = TokenStatistics(*(column[at_gate] for column in statistics))
            with self._graph():
                seen = token_statistics(negative, project, labels, temperature)
            entropies.extend([anchor.entropy, seen.entropy])
            divergence = perception_divergence(anchor.logprobs, seen.logprobs)
            if config.divergence == "kl":
                divergence = view_divergence(
                    hidden[at_gate], negative, project, labels, "kl", temperature, grad
                )
            divergence = cut_off(divergence, config.max_divergence)
            if config.entropy == "sampled":
                return Terms(divergence, -anchor.logprobs, -seen.logprobs)
            with self._graph():
                of_negative = hidden_entropy(negative, project, temperature)
            of_anchor = hidden_entropy(hidden[at_gate], project, temperature)
            return Terms(divergence, of_anchor, of_negative)

        statistics, terms = self.parts.passes.anchor(passes, mb, score)
        return Output(statistics, Scored(row, at, terms, tuple(entropies)))

    def add(
        self, loss: Tensor, output: Output, logprobs: Tensor, multiplier: float
    ) -> Tensor:
        """With the micro-batch's part of PAPO, unless it isn't finite on some rank."""
        config, views, parts = self.config, output.views, self.parts
        row, at = views.row, views.at
        token_loss = papo_loss(*views.terms, config.gamma, config.eta1, config.eta2)
        weights = token_weights(config.staleness, logprobs, row, at, parts.version)
        share = aggregate_token_loss(
            token_loss * weights, row.sequences[at], config.aggregation, self.normalizer
        )
        nonfinite = ~torch.isfinite(token_loss.detach() * weights)
        # All ranks keep a micro-batch or all leave it out, as with CPL.
        skipped = parts.ranks.any(nonfinite.any())
        self._record(views, token_loss, weights, nonfinite, skipped)
        return loss if skipped else loss + multiplier * share

    def _graph(self) -> AbstractContextManager:
        """For what is computed of the negative view, the output head included."""
        return nullcontext() if self.config.negative_grad else torch.no_grad()

    def _record(
        self,
        views: Scored,
        token_loss: Tensor,
        weights: Tensor,
        nonfinite: Tensor,
        skipped: bool,
    ) -> None:
        """With AReaL's stats tracker, under `papo/`; of a row left out, counts only."""
        row, at = views.row, views.at
        gate, responses = and_none(row.gate), and_none(row.responses)
        limit = self.config.max_divergence
        divergence = views.terms.divergence.detach()
        bounded = torch.zeros_like(nonfinite)
        if limit is not None:
            bounded = divergence >= limit
        in_row = partial(spread, gate, at)
        kept = torch.full_like(gate, not skipped)
        stats_tracker.denominator(
            **{
                "papo/view_sequences": responses,
                "papo/skipped_responses": responses & skipped,
                "papo/nonfinite_tokens": in_row(nonfinite).bool(),
                "papo/tokens": gate & kept,
                "papo/bounded_tokens": in_row(bounded).bool() & kept,
            }
        )
        stats_tracker.stat(
            **{
                "papo/loss": in_row(token_loss),
                "papo/divergence": in_row(divergence),
                "papo/anchor_entropy": in_row(views.entropies[0]),
                "papo/negative_entropy": in_row(views.entropies[1]),
                "papo/importance_weight": in_row(weights),
            },
            denominator="papo/tokens",
            reduce_type=ReduceType.AVG,
        )
