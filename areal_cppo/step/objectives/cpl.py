"""The Contrastive Perception Loss as a step (arXiv 2601.00501): CPPO, and CPL alone.

The views' passes come first and hand over their hidden states at the gated tokens. In
the anchor's pass, where the output head's weights are at hand, the perception tokens
are selected and both divergences computed at them. Every rank makes the same calls of
the model, whatever the gate let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import (
    PerceptionLoss,
    TokenScores,
    entropy_gain,
    perception_loss,
    perception_tokens,
    score_hidden,
    selection_seeds,
    view_divergences,
)
from areal_cppo.core.head import Projection
from areal_cppo.step.objectives.base import Objective, Parts
from areal_cppo.step.objectives.cpl_metrics import METRICS, MetricOf
from areal_cppo.step.objectives.tokens import GatedTokens, at_gate
from areal_cppo.step.pack import MicroBatch
from areal_cppo.step.token_metrics import (
    TokenRecord,
    and_none,
    record_counts,
    record_means,
)

__all__ = ["METRICS", "OBJECTIVE", "CPLObjective"]


class Selected(NamedTuple):
    """The gated tokens of a micro-batch, and which of them are perception tokens."""

    scores: TokenScores  # [G]
    gain: Tensor  # fp32 [G]
    chosen: Tensor  # bool [G]


class Compared(NamedTuple):
    """Perception tokens and both views' divergences there, fp32 `[N]`."""

    selected: Selected
    to_positive: Tensor
    to_negative: Tensor


class CPLObjective(Objective):
    """A step with the Contrastive Perception Loss."""

    scope = "cpl"

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.config = parts.config.cpl
        super().__init__(parts, padded)
        self.normalizer = self.gated.count

    @classmethod
    def gate_of(cls, config: CPPOActorConfig) -> str:
        return config.cpl.gate

    @classmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        views = config.cpl.views
        return {"positive": views.positive, "negative": views.negative}

    @property
    def prepares_all(self) -> bool:
        return self.config.aggregation == "token" and self.config.responses is not None

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Aggregation `token` divides by the perception tokens of all ranks, drawn or
        not, so the anchor's and the negative view's forward passes run once more to
        count them."""
        if self.config.aggregation != "token":
            return
        counts = [self._count(mb) for mb in micro_batches if mb.view is not None]
        total = self.parts.ranks.sum(torch.stack(counts).sum())
        self.normalizer = max(1, int(total))

    def look(self, micro_batch: MicroBatch, tokens: GatedTokens) -> dict[str, Tensor]:
        """Hidden states `[G, D]` of both views."""
        return {
            kind: self.view(
                micro_batch, tokens, kind, has_grad=kind in self.config.grad
            )
            for kind in ("negative", "positive")
        }

    def compare(
        self, micro_batch, tokens, views: Mapping[str, Tensor], hidden, project, _
    ) -> Compared:
        """Select, and compute divergences with a graph, which the anchor's pass has
        where the views' had none."""
        anchor = hidden[at_gate(micro_batch, tokens)]
        selected = self._select(tokens, anchor, views["negative"], project)
        chosen = selected.chosen
        divergences = view_divergences(
            anchor[chosen],
            views["positive"][chosen],
            views["negative"][chosen],
            project,
            tokens.labels[tokens.at[chosen]],
            self.config.divergence,
            self.parts.model.temperature,
            self.config.grad,
        )
        return Compared(selected, *divergences)

    def shown(self, compared: Compared) -> dict[str, Tensor]:
        scores, gain, chosen = compared.selected
        return {
            "gain": gain,
            "selected": chosen,
            "anchor_entropy": scores.anchor_entropy,
            "negative_entropy": scores.negative_entropy,
            "negative_divergence": scores.divergence,
        }

    def loss(
        self, tokens: GatedTokens, compared: Compared, logprobs: Tensor
    ) -> Tensor | None:
        """`coef` times the micro-batch's part of CPL; None if that isn't finite on some
        rank."""
        at = tokens.at[compared.selected.chosen]
        version, staleness = self.parts.version, self.config.staleness
        result = perception_loss(
            self.config,
            compared.to_positive,
            compared.to_negative,
            tokens.weights(staleness, logprobs, at, version),
            tokens.sequences[at],
            self.normalizer,
            tokens.counts[at],
        )
        nonfinite = _nonfinite(tokens, compared.selected, result)
        # Not a number in a view's pass would reach the parameters even with a gradient
        # of zero, and a rank that left its backward pass out would keep others waiting.
        skipped = self.parts.ranks.any(nonfinite.any())
        self._record(tokens, compared, result, nonfinite, skipped)
        if skipped:
            self.parts.meter.skipped()
            return None
        self.parts.meter.gains(compared.selected.gain)
        return self.config.coef * result.loss

    def _select(
        self, tokens: GatedTokens, anchor: Tensor, negative: Tensor, project: Projection
    ) -> Selected:
        model, seeds = self.parts.model, ()
        scores = score_hidden(anchor, negative, project, model.temperature)
        if self.config.selection == "random":
            run, version = self.parts.config.view_seed, self.parts.version
            seeds = selection_seeds(run, version, tokens.tokens, tokens.sequences)
        chosen = perception_tokens(
            self.config,
            scores.anchor_entropy,
            scores.negative_entropy,
            tokens.gate,
            tokens.sequences,
            vocabulary=model.vocabulary,
            seeds=seeds,
        )
        gain = entropy_gain(scores.anchor_entropy, scores.negative_entropy)
        return Selected(scores, gain, chosen)

    def _count(self, micro_batch: MicroBatch) -> Tensor:
        """How many tokens of a micro-batch would be selected, were all responses drawn:
        int64, no dimension."""
        passed = self.gated.passed[micro_batch.anchor.responses]
        tokens = GatedTokens.of(micro_batch, self.gate, passed)
        negative = self.view(micro_batch, tokens, "negative", has_grad=False)

        def count(hidden: Tensor, project: Projection) -> Tensor:
            return self._select(tokens, hidden, negative, project).chosen.sum()

        return self.parts.model.anchor_at(micro_batch, tokens.gate, count)

    def _record(
        self,
        tokens: GatedTokens,
        compared: Compared,
        result: PerceptionLoss,
        nonfinite: Tensor,
        skipped: bool,
    ) -> None:
        """Scores, divergences, losses and weights; of a micro-batch that was left out
        (`skipped`) only the counts."""
        record = TokenRecord(tokens.gate)
        (scores, gain, chosen), near, far = compared
        at = tokens.at[chosen]
        gate, selected = record.everywhere, record.mask(at)
        stale, limit = torch.zeros_like(gate), self.config.staleness.max_staleness
        if limit is not None:
            behind = self.parts.version - tokens.versions
            stale = selected & and_none(behind > limit)
        responses, kept = and_none(tokens.responses), torch.full_like(gate, not skipped)
        m, margin = MetricOf, (far - near).detach()
        record_counts(
            {
                m.view_sequences: responses,
                m.skipped_responses: responses & skipped,
                m.nonfinite_tokens: and_none(nonfinite),
                m.gated_tokens: gate & kept,
                m.perception_tokens: selected & kept,
                m.unselected_tokens: gate & ~selected & kept,
                m.stale_tokens: stale & kept,
            }
        )
        everywhere = {
            m.anchor_entropy: scores.anchor_entropy,
            m.negative_entropy: scores.negative_entropy,
            m.entropy_gain: gain,
        }
        others = {m.unselected_divergence: scores.divergence}
        perception = {
            m.loss: result.token_loss,
            m.positive_divergence: near,
            m.negative_divergence: far,
            m.margin: margin,
            m.inverted_margin: torch.relu(-margin),
            m.importance_weight: result.weights,
            m.importance_weight_squared: result.weights.square(),
            m.selected_anchor_entropy: scores.anchor_entropy[chosen],
            m.selected_negative_entropy: scores.negative_entropy[chosen],
            m.selected_gain: gain[chosen],
        }
        for over, places, values in (
            (m.gated_tokens, tokens.at, everywhere),
            (m.unselected_tokens, tokens.at, others),
            (m.perception_tokens, at, perception),
        ):
            record_means(over, {k: record.at(places, v) for k, v in values.items()})


def _nonfinite(
    tokens: GatedTokens, selected: Selected, result: PerceptionLoss
) -> Tensor:
    """Gated tokens with a score, loss or weight that is not finite: bool `[T]`."""
    bad = torch.zeros_like(tokens.gate)
    bad[tokens.at] = ~torch.isfinite(selected.gain + selected.scores.divergence)
    wrong = ~torch.isfinite(result.token_loss * result.weights)
    bad[tokens.at[selected.chosen]] |= wrong
    return bad


OBJECTIVE = CPLObjective
