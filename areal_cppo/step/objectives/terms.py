"""What PAPO and DVRP have in common: a term at every token beside the policy loss.

All tokens of all responses with an image and a negative view have it, whatever their
advantage; with `responses` those of a group's that were drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from areal_cppo.core import aggregate_token_loss
from areal_cppo.metrics import UPDATE, Metric, share
from areal_cppo.step.gate import gate_metrics, gate_tokens
from areal_cppo.step.objectives.base import Objective, Parts
from areal_cppo.step.objectives.tokens import GatedTokens
from areal_cppo.step.token_metrics import (
    TokenRecord,
    and_none,
    record_counts,
    record_means,
)


class TermsObjective(Objective):
    """A step with a term at every token, beside the policy loss.

    Its settings have `aggregation`, `max_divergence` and `staleness`.
    """

    of: ClassVar[dict[str, Metric]]  # its metrics, by their names without the scope

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.config = parts.config.objective_settings
        super().__init__(parts, padded)
        self.normalizer = self.gated.count
        if self.config.aggregation == "token":
            tokens = gate_tokens(padded, "none").to(parts.ranks.device)
            self.normalizer = int(parts.ranks.sum(tokens[self.gated.passed].sum()))

    @abstractmethod
    def token_loss(self, compared: Any) -> Tensor:
        """The term at each gated token: `[G]`, nats."""

    @abstractmethod
    def bounded(self, compared: Any) -> Tensor:
        """The divergence `[G]` that `max_divergence` bounds, bounded."""

    @abstractmethod
    def means(self, compared: Any) -> dict[str, Tensor]:
        """What is recorded as means over tokens, `[G]` each, by names as in `of`."""

    def loss(
        self, tokens: GatedTokens, compared: Any, logprobs: Tensor
    ) -> Tensor | None:
        """The micro-batch's part of the terms; None if it isn't finite on some rank."""
        config, at = self.config, tokens.at
        token_loss = self.token_loss(compared)
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

    def _record(
        self,
        tokens: GatedTokens,
        compared: Any,
        token_loss: Tensor,
        weights: Tensor,
        nonfinite: Tensor,
        skipped: bool,
    ) -> None:
        """Of a micro-batch left out, counts only."""
        record, at, of = TokenRecord(tokens.gate), tokens.at, self.of
        responses = and_none(tokens.responses)
        limit, bounded = self.config.max_divergence, torch.zeros_like(nonfinite)
        if limit is not None:
            bounded = self.bounded(compared).detach() >= limit
        kept = torch.full_like(record.everywhere, not skipped)
        record_counts(
            {
                of["view_sequences"]: responses,
                of["skipped_responses"]: responses & skipped,
                of["nonfinite_tokens"]: record.mask(at, nonfinite),
                of["tokens"]: record.everywhere & kept,
                of["bounded_tokens"]: record.mask(at, bounded) & kept,
            }
        )
        means = {"loss": token_loss, "importance_weight": weights}
        means |= self.means(compared)
        record_means(of["tokens"], {of[k]: record.at(at, v) for k, v in means.items()})


def term_metrics(
    scope: str, title: str, passes: str = "the negative view's"
) -> tuple[Metric, ...]:
    """What a `TermsObjective` records beside its own loss and `means`.

    `passes`: as `gate_metrics` takes it.
    """
    drawn = f"all, or at most {scope}.responses a group"
    return (
        Metric(
            f"{scope}_bounded_tokens",
            f"{title}, bounded tokens",
            "tokens",
            f"Tokens whose divergence reached {scope}.max_divergence and taught "
            "nothing more.",
            key=f"{UPDATE}{scope}/bounded_tokens",
        ),
        Metric(
            f"{scope}_bounded_share",
            f"{title}, bounded share",
            "share",
            "The same as a share of the tokens; a steady rise means that the views are "
            "driven apart for the sake of it.",
            derive=share(f"{scope}_bounded_tokens", f"{scope}_tokens"),
        ),
        Metric(
            f"{scope}_importance_weight",
            f"{title}, staleness weight",
            "",
            f"Mean weight of a token in {title}'s terms; 1 when every token is "
            "on-policy.",
            key=f"{UPDATE}{scope}/importance_weight",
        ),
        Metric(
            f"{scope}_nonfinite_tokens",
            f"{title}, non-finite tokens",
            "tokens",
            f"Tokens at which {title}'s loss was not finite; always 0 in a healthy "
            "run.",
            key=f"{UPDATE}{scope}/nonfinite_tokens",
        ),
        Metric(
            f"{scope}_skipped_responses",
            f"{title}, responses skipped",
            "responses",
            f"Responses in micro-batches that {title}'s terms were left out of, on all "
            "ranks alike, because of such a token; the policy loss goes on without "
            "them.",
            key=f"{UPDATE}{scope}/skipped_responses",
        ),
        *gate_metrics(scope, title, drawn, passes),
    )
