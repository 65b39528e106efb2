"""PAPO (arXiv 2507.06448) as a step: one view, over all tokens of all responses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
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
from areal_cppo.metrics import UPDATE, Metric, by_name, share
from areal_cppo.step.gate import gate_metrics, gate_tokens
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
        "papo_loss",
        "PAPO",
        "nats",
        "What PAPO adds to the policy loss, before the staleness weight, mean over "
        "tokens: -gamma times the divergence plus the entropies times their weights; "
        "it falls as the views move apart.",
        key=f"{UPDATE}papo/loss",
    ),
    Metric(
        "papo_divergence",
        "PAPO, divergence",
        "nats",
        "How far the prediction moves under the negative view, mean over tokens: what "
        "the Implicit Perception Loss pushes up. A sudden fall after a rise, together "
        "with the reward, is the collapse that the paper describes.",
        key=f"{UPDATE}papo/divergence",
    ),
    Metric(
        "papo_bounded_tokens",
        "PAPO, bounded tokens",
        "tokens",
        "Tokens whose divergence reached papo.max_divergence and taught nothing more.",
        key=f"{UPDATE}papo/bounded_tokens",
    ),
    Metric(
        "papo_bounded_share",
        "PAPO, bounded share",
        "share",
        "The same as a share of the tokens; a steady rise means that the views are "
        "driven apart for the sake of it.",
        derive=share("papo_bounded_tokens", "papo_tokens"),
    ),
    Metric(
        "papo_anchor_entropy",
        "PAPO, anchor entropy",
        "nats",
        "Predictive entropy given the original image, over the whole vocabulary, mean "
        "over tokens; a rise of both entropies is an early sign of collapse.",
        key=f"{UPDATE}papo/anchor_entropy",
    ),
    Metric(
        "papo_negative_entropy",
        "PAPO, negative entropy",
        "nats",
        "The same given the negative view.",
        key=f"{UPDATE}papo/negative_entropy",
    ),
    Metric(
        "papo_importance_weight",
        "PAPO, staleness weight",
        "",
        "Mean weight of a token in PAPO's terms; 1 when every token is on-policy.",
        key=f"{UPDATE}papo/importance_weight",
    ),
    Metric(
        "papo_nonfinite_tokens",
        "PAPO, non-finite tokens",
        "tokens",
        "Tokens at which PAPO's loss was not finite; always 0 in a healthy run.",
        key=f"{UPDATE}papo/nonfinite_tokens",
    ),
    Metric(
        "papo_skipped_responses",
        "PAPO, responses skipped",
        "responses",
        "Responses in micro-batches that PAPO's terms were left out of, on all ranks "
        "alike, because of such a token; the policy loss goes on without them.",
        key=f"{UPDATE}papo/skipped_responses",
    ),
    *gate_metrics("papo", "PAPO", "all, or at most papo.responses a group"),
)
_OF = {name.removeprefix("papo_"): metric for name, metric in by_name(METRICS).items()}


class Terms(NamedTuple):
    """What PAPO's loss is made of, fp32 `[G]` each."""

    divergence: Tensor
    anchor_entropy: Tensor
    negative_entropy: Tensor


class TermsAndEntropies(NamedTuple):
    """PAPO's terms, and both views' exact entropies, without gradient: `[G]`."""

    terms: Terms
    anchor_entropy: Tensor
    negative_entropy: Tensor


class PAPOObjective(Objective):
    """A step with the Implicit Perception Loss and the Double Entropy Loss."""

    scope = "papo"

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.config = parts.config.papo
        super().__init__(parts, padded)
        self.normalizer = self.gated.count
        if self.config.aggregation == "token":
            tokens = gate_tokens(padded, "none").to(parts.ranks.device)
            self.normalizer = int(parts.ranks.sum(tokens[self.gated.passed].sum()))

    @classmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        return {"negative": config.papo.views}

    def look(self, micro_batch: MicroBatch, tokens: GatedTokens) -> Tensor:
        """Hidden states `[G, D]` of the negative view."""
        has_grad = self.config.negative_grad
        return self.view(micro_batch, tokens, "negative", has_grad=has_grad)

    def compare(
        self, micro_batch, tokens, views: Tensor, hidden, project, statistics
    ) -> TermsAndEntropies:
        """Divergence and entropies at the gated tokens."""
        config, temperature = self.config, self.parts.model.temperature
        labels, gated = tokens.labels[tokens.at], at_gate(micro_batch, tokens)
        anchor = TokenStatistics(*(column[gated] for column in statistics))
        with self._graph():
            seen = token_statistics(views, project, labels, temperature)
        divergence = perception_divergence(anchor.logprobs, seen.logprobs)
        if config.divergence == "kl":
            grad = ("anchor", "negative") if config.negative_grad else ("anchor",)
            divergence = view_divergence(
                hidden[gated], views, project, labels, "kl", temperature, grad
            )
        divergence = cut_off(divergence, config.max_divergence)
        if config.entropy == "sampled":
            terms = Terms(divergence, -anchor.logprobs, -seen.logprobs)
        else:
            with self._graph():
                of_negative = hidden_entropy(views, project, temperature)
            of_anchor = hidden_entropy(hidden[gated], project, temperature)
            terms = Terms(divergence, of_anchor, of_negative)
        return TermsAndEntropies(terms, anchor.entropy, seen.entropy)

    def loss(
        self, tokens: GatedTokens, compared: TermsAndEntropies, logprobs: Tensor
    ) -> Tensor | None:
        """The micro-batch's part of PAPO; None if it isn't finite on some rank."""
        config, at = self.config, tokens.at
        token_loss = papo_loss(*compared.terms, config.gamma, config.eta1, config.eta2)
        weights = tokens.weights(config.staleness, logprobs, at, self.parts.version)
        part = aggregate_token_loss(
            token_loss * weights * tokens.counts[at],
            tokens.sequences[at],
            config.aggregation,
            self.normalizer,
        )
        nonfinite = ~torch.isfinite(token_loss.detach() * weights)
        # All ranks keep a micro-batch or all leave it out, as with CPL.
        skipped = self.parts.ranks.any(nonfinite.any())
        self._record(tokens, compared, token_loss, weights, nonfinite, skipped)
        return None if skipped else part

    def _graph(self) -> AbstractContextManager:
        """For what is computed of the negative view, the output head included."""
        return nullcontext() if self.config.negative_grad else torch.no_grad()

    def _record(
        self,
        tokens: GatedTokens,
        compared: TermsAndEntropies,
        token_loss: Tensor,
        weights: Tensor,
        nonfinite: Tensor,
        skipped: bool,
    ) -> None:
        """Of a micro-batch left out, counts only."""
        record, at = TokenRecord(tokens.gate), tokens.at
        responses = and_none(tokens.responses)
        limit, divergence = self.config.max_divergence, compared.terms.divergence
        bounded = torch.zeros_like(nonfinite)
        if limit is not None:
            bounded = divergence.detach() >= limit
        kept = torch.full_like(record.everywhere, not skipped)
        record_counts(
            {
                _OF["view_sequences"]: responses,
                _OF["skipped_responses"]: responses & skipped,
                _OF["nonfinite_tokens"]: record.mask(at, nonfinite),
                _OF["tokens"]: record.everywhere & kept,
                _OF["bounded_tokens"]: record.mask(at, bounded) & kept,
            }
        )
        means = {
            "loss": token_loss,
            "divergence": divergence,
            "anchor_entropy": compared.anchor_entropy,
            "negative_entropy": compared.negative_entropy,
            "importance_weight": weights,
        }
        record_means(
            _OF["tokens"], {_OF[k]: record.at(at, v) for k, v in means.items()}
        )


OBJECTIVE = PAPOObjective
