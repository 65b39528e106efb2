"""PAPO (arXiv 2507.06448) as a step: one view, over all tokens of all responses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import (
    TokenStatistics,
    hidden_entropy,
    papo_loss,
    perception_divergence,
    token_statistics,
    view_divergence,
)
from areal_cppo.core.divergence import cut_off
from areal_cppo.metrics import UPDATE, Metric, by_name
from areal_cppo.step.objectives.terms import TermsObjective, term_metrics
from areal_cppo.step.objectives.tokens import GatedTokens, at_gate
from areal_cppo.step.pack import MicroBatch

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
    *term_metrics("papo", "PAPO"),
)


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


class PAPOObjective(TermsObjective):
    """A step with the Implicit Perception Loss and the Double Entropy Loss."""

    scope = "papo"
    of = {name.removeprefix("papo_"): m for name, m in by_name(METRICS).items()}

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

    def token_loss(self, compared: TermsAndEntropies) -> Tensor:
        config = self.config
        return papo_loss(*compared.terms, config.gamma, config.eta1, config.eta2)

    def bounded(self, compared: TermsAndEntropies) -> Tensor:
        return compared.terms.divergence

    def means(self, compared: TermsAndEntropies) -> dict[str, Tensor]:
        return {
            "divergence": compared.terms.divergence,
            "anchor_entropy": compared.anchor_entropy,
            "negative_entropy": compared.negative_entropy,
        }

    def _graph(self) -> AbstractContextManager:
        """For what is computed of the negative view, the output head included."""
        return nullcontext() if self.config.negative_grad else torch.no_grad()


OBJECTIVE = PAPOObjective
