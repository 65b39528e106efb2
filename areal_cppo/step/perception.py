"""The Contrastive Perception Loss of one packed micro-batch.

The views' passes come first: the model runs on the same tokens with other pixels, and
hands over its hidden states at the `G` gated tokens. Then the anchor's pass, which is
that of the policy loss: inside it, where the output head's weights are at hand, the
perception tokens are selected and both divergences computed at the `N` selected ones.
Logits exist a few rows at a time (`areal_cppo.core.head`).

Every rank makes the same calls of the model, whatever the gate let through: a row
without gated tokens contributes a graph-connected zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from areal_cppo.core import (
    CPLConfig,
    StalenessConfig,
    TokenScores,
    aggregate_token_loss,
    contrastive_perception_loss,
    entropy_gain,
    entropy_rise,
    image_digest,
    rise_eligible,
    score_hidden,
    select_perception_tokens,
    select_random_tokens,
    staleness_weights,
    view_divergences,
    view_seed,
)
from areal_cppo.core.head import Projection
from areal_cppo.step.packing import PackedRow


@dataclass(frozen=True)
class Selection:
    """The perception tokens of a row, and what chose them."""

    gated: torch.Tensor  # int64 [G]: positions of the gated tokens
    scores: TokenScores  # [G]
    gain: torch.Tensor  # fp32 [G]
    chosen: torch.Tensor  # bool [G]

    @property
    def positions(self) -> torch.Tensor:
        """Positions of the perception tokens: int64 `[N]`, ascending."""
        return self.gated[self.chosen]


@dataclass(frozen=True)
class Hidden:
    """Hidden states `[G, D]` of the three passes at the gated tokens."""

    anchor: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor


@dataclass(frozen=True)
class RowLoss:
    """CPL of a row; `loss` is a scalar with gradient, the others `[N]` without."""

    loss: torch.Tensor
    token_loss: torch.Tensor  # before its weight
    positive_divergence: torch.Tensor
    negative_divergence: torch.Tensor
    weights: torch.Tensor


def nonfinite_tokens(
    row: PackedRow, selection: Selection, result: RowLoss
) -> torch.Tensor:
    """Gated tokens with a score, loss or weight that is not finite: bool `[T]`."""
    bad = torch.zeros_like(row.gate)
    bad[selection.gated] = ~torch.isfinite(selection.gain + selection.scores.divergence)
    bad[selection.positions] |= ~torch.isfinite(result.token_loss * result.weights)
    return bad


class PerceptionLoss:
    """Computes CPL for packed rows.

    Parameters
    ----------
    config
        `actor.cpl`.
    view_seed
        Seed of the run; with the policy version and a response it fixes its random
        tokens (selection `random`).
    temperature
        Of the policy's distribution.
    vocabulary
        Number of words.
    """

    def __init__(
        self,
        config: CPLConfig,
        *,
        view_seed: int,
        temperature: float,
        vocabulary: int,
    ):
        self.config = config
        self.view_seed = view_seed
        self.temperature = temperature
        self.vocabulary = vocabulary

    def select(
        self,
        anchor: torch.Tensor,
        negative: torch.Tensor,
        project: Projection,
        row: PackedRow,
        version: int,
    ) -> Selection:
        """Select the row's perception tokens.

        Parameters
        ----------
        anchor, negative
            `[G, D]`, hidden states of two passes at the gated tokens.
        project
            The model's output head.
        row
            The row's tokens.
        version
            Current policy version.
        """
        config = self.config
        gated = row.gate.nonzero().flatten()
        scores = score_hidden(anchor, negative, project, self.temperature)
        gain = entropy_gain(scores.anchor_entropy, scores.negative_entropy)
        eligible = rise_eligible(
            scores.anchor_entropy,
            scores.negative_entropy,
            config.min_gain,
            vocabulary=self.vocabulary,
        )
        sequences = row.sequences[gated]
        if config.selection == "all":
            chosen = torch.ones_like(eligible)
        else:
            score = gain
            if config.selection == "entropy_rise":
                score = entropy_rise(scores.anchor_entropy, scores.negative_entropy)
            chosen = select_perception_tokens(
                score, eligible, sequences, config.top_fraction, config.quota
            )
        if config.selection == "random":
            like = torch.zeros_like(row.gate)
            like[gated[chosen]] = True
            seeds = self._seeds(row, version)
            chosen = select_random_tokens(row.gate, row.sequences, like, seeds)[gated]
        return Selection(gated, scores, gain, chosen)

    def divergences(
        self,
        hidden: Hidden,
        project: Projection,
        row: PackedRow,
        selection: Selection,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both views' divergences from the anchor at the perception tokens: `[N]`."""
        chosen = selection.chosen
        return view_divergences(
            hidden.anchor[chosen],
            hidden.positive[chosen],
            hidden.negative[chosen],
            project,
            row.labels[selection.positions],
            self.config.divergence,
            self.temperature,
            self.config.grad,
        )

    def __call__(
        self,
        to_positive: torch.Tensor,
        to_negative: torch.Tensor,
        logprobs: torch.Tensor,
        row: PackedRow,
        selection: Selection,
        *,
        version: int,
        normalizer: int,
    ) -> RowLoss:
        """The row's part of CPL, before `coef`.

        Parameters
        ----------
        to_positive, to_negative
            `[N]`, what `divergences` returned.
        logprobs
            `[T]`, the current policy's; they weigh stale tokens where the row has no
            proximal ones (`prox_logp_method: loglinear`).
        row, selection, version
            As for `select`.
        normalizer
            The number of gated responses (aggregation `sequence`) or of perception
            tokens (`token`) in the whole global batch.

        Returns
        -------
        RowLoss
            Without perception tokens its loss is a zero that still leads back through
            every pass that has a graph, so that all ranks have the same backward pass.
        """
        config = self.config
        selected = selection.positions
        token_loss = contrastive_perception_loss(to_positive, to_negative, config.tau)
        weights = token_weights(config.staleness, logprobs, row, selected, version)
        loss = aggregate_token_loss(
            token_loss * weights,
            row.sequences[selected],
            config.aggregation,
            normalizer,
        )
        return RowLoss(
            loss,
            token_loss.detach(),
            to_positive.detach(),
            to_negative.detach(),
            weights,
        )

    def _seeds(self, row: PackedRow, version: int) -> list[int]:
        """One seed per sequence of the row, from its tokens alone."""
        lengths = torch.bincount(row.sequences).tolist()
        return [
            view_seed(self.view_seed, version, image_digest(tokens), "tokens")
            for tokens in row.tokens.split(lengths)
        ]


def token_weights(
    staleness: StalenessConfig,
    logprobs: torch.Tensor,
    row: PackedRow,
    at: torch.Tensor,
    version: int,
) -> torch.Tensor:
    """Importance weight and decay of some tokens of a row: fp32 `[N]`, no gradient.

    Parameters
    ----------
    staleness
        How a token sampled by an older policy counts.
    logprobs
        `[T]`, the current policy's, where the row has no proximal ones.
    row
        The row's tokens.
    at
        Int64 `[N]`, their positions.
    version
        Current policy version.
    """
    behaviour = row.behaviour_logprobs[at]
    if not staleness.importance_weight:
        proximal = behaviour
    elif row.proximal_logprobs is not None:
        proximal = row.proximal_logprobs[at]
    else:
        proximal = logprobs.detach()[at]
    return staleness_weights(
        proximal,
        behaviour,
        row.versions[at],
        version,
        cap=staleness.importance_cap,
        decay=staleness.decay,
        max_staleness=staleness.max_staleness,
    )
