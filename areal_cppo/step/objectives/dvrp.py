"""DVRP (arXiv 2601.06801) as a step: two views, over all tokens of all responses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import dvrp_loss, hidden_entropy, view_divergences
from areal_cppo.core.divergence import cut_off
from areal_cppo.metrics import UPDATE, Metric, by_name
from areal_cppo.step.objectives.terms import TermsObjective, term_metrics
from areal_cppo.step.objectives.tokens import GatedTokens, at_gate
from areal_cppo.step.pack import MicroBatch

METRICS = (
    Metric(
        "dvrp_loss",
        "DVRP",
        "nats",
        "What DVRP adds to the policy loss, before the staleness weight, mean over "
        "tokens: the positive view's divergence minus the negative's plus both "
        "entropies, times their weights.",
        key=f"{UPDATE}dvrp/loss",
    ),
    Metric(
        "dvrp_negative_divergence",
        "DVRP, negative divergence",
        "nats",
        "How far the prediction moves under the negative view, up to "
        "dvrp.max_divergence, mean over tokens: what DVRP pushes up.",
        key=f"{UPDATE}dvrp/negative_divergence",
    ),
    Metric(
        "dvrp_positive_divergence",
        "DVRP, positive divergence",
        "nats",
        "The same under the positive view: what DVRP pushes down.",
        key=f"{UPDATE}dvrp/positive_divergence",
    ),
    Metric(
        "dvrp_anchor_entropy",
        "DVRP, anchor entropy",
        "nats",
        "Predictive entropy given the original image, mean over tokens.",
        key=f"{UPDATE}dvrp/anchor_entropy",
    ),
    Metric(
        "dvrp_negative_entropy",
        "DVRP, negative entropy",
        "nats",
        "The same given the negative view: what DVRP pushes down, so that a flat "
        "distribution wins nothing.",
        key=f"{UPDATE}dvrp/negative_entropy",
    ),
    Metric(
        "dvrp_positive_entropy",
        "DVRP, positive entropy",
        "nats",
        "The same given the positive view.",
        key=f"{UPDATE}dvrp/positive_entropy",
    ),
    Metric(
        "dvrp_positive_views",
        "DVRP, positive views",
        "images",
        "Images that a positive view was drawn for.",
        key=f"{UPDATE}dvrp/positive_views",
    ),
    Metric(
        "dvrp_positive_views_unchanged",
        "DVRP, positive views unchanged",
        "images",
        "Positive views that equal their image; harmless, but they teach nothing.",
        key=f"{UPDATE}dvrp/positive_views_unchanged",
    ),
    *term_metrics("dvrp", "DVRP", "both views'"),
)


class DVRPTerms(NamedTuple):
    """What DVRP's loss is made of, and the anchor's entropy, fp32 `[G]` each."""

    negative_divergence: Tensor
    positive_divergence: Tensor
    negative_entropy: Tensor
    positive_entropy: Tensor
    anchor_entropy: Tensor  # no gradient


class DVRPObjective(TermsObjective):
    """A step that drives one view away, holds the other, and keeps both definite."""

    scope = "dvrp"
    of = {name.removeprefix("dvrp_"): m for name, m in by_name(METRICS).items()}

    @classmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        views = config.dvrp.views
        return {"positive": views.positive, "negative": views.negative}

    def look(self, micro_batch: MicroBatch, tokens: GatedTokens) -> dict[str, Tensor]:
        """Hidden states `[G, D]` of both views."""
        return {
            kind: self.view(
                micro_batch, tokens, kind, has_grad=kind in self.config.grad
            )
            for kind in ("negative", "positive")
        }

    def compare(
        self, micro_batch, tokens, views: Mapping[str, Tensor], hidden, project, stats
    ) -> DVRPTerms:
        """Divergences and entropies at the gated tokens."""
        config, temperature = self.config, self.parts.model.temperature
        gated, labels = at_gate(micro_batch, tokens), tokens.labels[tokens.at]
        to_positive, to_negative = view_divergences(
            hidden[gated],
            views["positive"],
            views["negative"],
            project,
            labels,
            config.divergence,
            temperature,
            config.grad,
        )
        entropies = []
        for kind in ("negative", "positive"):
            # The output head has none either of a view that carries no gradient.
            with nullcontext() if kind in config.grad else torch.no_grad():
                entropies.append(hidden_entropy(views[kind], project, temperature))
        to_negative = cut_off(to_negative, config.max_divergence)
        return DVRPTerms(to_negative, to_positive, *entropies, stats.entropy[gated])

    def token_loss(self, compared: DVRPTerms) -> Tensor:
        config = self.config
        return dvrp_loss(
            *compared[:4],
            lambda_nec=config.lambda_nec,
            lambda_rob=config.lambda_rob,
            lambda_ent=config.lambda_ent,
        )

    def bounded(self, compared: DVRPTerms) -> Tensor:
        return compared.negative_divergence

    def means(self, compared: DVRPTerms) -> dict[str, Tensor]:
        return compared._asdict()


OBJECTIVE = DVRPObjective
