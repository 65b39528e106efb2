"""The Contrastive Perception Loss of one packed micro-batch.

One micro-batch of gated responses is one row of `T` packed tokens. The anchor's logits
come from the forward pass of the policy loss; this module runs the model on the two
views of the row's images (same tokens, same positions, other pixels), selects the
perception tokens and returns the loss. Logits of the views are made only where they are
needed: the negative's at the `G` gated tokens, the positive's at the `N` selected ones.

Every rank makes the same calls of the model, whatever the gate let through: a row
without gated tokens contributes a graph-connected zero.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from areal_cppo.core import (
    CPLConfig,
    TokenScores,
    aggregate_token_loss,
    contrastive_perception_loss,
    entropy_gain,
    image_digest,
    rise_eligible,
    score_tokens,
    select_perception_tokens,
    select_random_tokens,
    staleness_weights,
    token_divergence,
    view_seed,
)
from areal_cppo.core.divergence import log_probs
from areal_cppo.training.meter import Meter
from areal_cppo.training.packing import PackedRow

_ROWS = 256  # rows of logits in fp32 at a time


@dataclass(frozen=True)
class Selection:
    """The perception tokens of a row, and what chose them."""

    gated: torch.Tensor  # int64 [G]: positions of the gated tokens
    scores: TokenScores  # [G]
    gain: torch.Tensor  # fp32 [G]
    chosen: torch.Tensor  # bool [G]
    negative_logits: torch.Tensor  # [G, V]

    @property
    def positions(self) -> torch.Tensor:
        """Positions of the perception tokens: int64 `[N]`, ascending."""
        return self.gated[self.chosen]


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
    """Computes CPL for packed rows of one model.

    Parameters
    ----------
    model
        The policy, as AReaL's engine calls it: `model(**inputs).logits`, which takes
        `logits_to_keep` as an index tensor.
    config
        `actor.cpl`.
    view_seed
        Seed of the run; with the policy version and a response it fixes its random
        tokens (selection `random`).
    temperature
        Of the policy's distribution.
    meter
        Told how long view passes take and how large they are.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        config: CPLConfig,
        *,
        view_seed: int,
        temperature: float,
        meter: Meter,
    ):
        self.model = model
        self.config = config
        self.view_seed = view_seed
        self.temperature = temperature
        self.meter = meter

    def select(
        self,
        anchor_logits: torch.Tensor,
        inputs: dict[str, Any],
        row: PackedRow,
        negative: torch.Tensor,
        version: int,
    ) -> Selection:
        """Run the negative view and select the row's perception tokens.

        Parameters
        ----------
        anchor_logits
            `[T or more, V]`; not differentiated.
        inputs
            The model's inputs of the anchor pass.
        row
            The row's tokens.
        negative
            Pixel values of the negative view, shape of the anchor's.
        version
            Current policy version.

        Returns
        -------
        Selection
            Its `negative_logits` have gradient if `negative` is among `cpl.grad`.
        """
        config = self.config
        gated = row.gate.nonzero().flatten()
        logits = self._view_logits(inputs, gated, negative, "negative")
        scores = score_tokens(anchor_logits, logits, gated, self.temperature)
        gain = entropy_gain(scores.anchor_entropy, scores.negative_entropy)
        eligible = rise_eligible(
            scores.anchor_entropy,
            scores.negative_entropy,
            config.min_gain,
            vocabulary=logits.shape[-1],
        )
        sequences = row.sequences[gated]
        if config.selection == "all":
            chosen = torch.ones_like(eligible)
        else:
            chosen = select_perception_tokens(
                gain, eligible, sequences, config.top_fraction, config.quota
            )
        if config.selection == "random":
            like = torch.zeros_like(row.gate)
            like[gated[chosen]] = True
            seeds = self._seeds(row, version)
            chosen = select_random_tokens(row.gate, row.sequences, like, seeds)[gated]
        return Selection(gated, scores, gain, chosen, logits)

    def __call__(
        self,
        anchor: torch.Tensor,
        inputs: dict[str, Any],
        row: PackedRow,
        selection: Selection,
        positive: torch.Tensor,
        *,
        version: int,
        normalizer: int,
    ) -> RowLoss:
        """The row's part of CPL, before `coef`.

        Parameters
        ----------
        anchor
            `[N, V]`, the anchor's logits at the perception tokens; detached unless
            `anchor` is among `cpl.grad`.
        inputs, row, version
            As for `select`.
        selection
            What `select` returned for this row.
        positive
            Pixel values of the positive view, shape of the anchor's.
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
        positive_logits = self._view_logits(inputs, selected, positive, "positive")
        negative_logits = selection.negative_logits[selection.chosen]
        labels = row.labels[selected]
        to_positive, to_negative = (
            token_divergence(
                anchor, view, labels, config.divergence, temperature=self.temperature
            )
            for view in (positive_logits, negative_logits)
        )
        token_loss = contrastive_perception_loss(to_positive, to_negative, config.tau)
        weights = self._staleness_weights(anchor, row, selected, version)
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

    def _view_logits(
        self,
        inputs: dict[str, Any],
        positions: torch.Tensor,
        pixel_values: torch.Tensor,
        kind: str,
    ) -> torch.Tensor:
        """Logits `[len(positions), V]` of the row seen through one view per image."""
        # A model that is asked for no position at all would skip its last layers'
        # collectives on some ranks: ask for one, and use none of it.
        keep = positions if positions.numel() else positions.new_zeros(1)
        has_grad = kind in self.config.grad
        inputs = {**inputs, "pixel_values": pixel_values}
        with self.meter.time(f"{kind}_view"):
            with nullcontext() if has_grad else torch.no_grad():
                output = self.model(**inputs, logits_to_keep=keep)
        tokens = inputs["input_ids"]
        self.meter.view_pass(tokens.numel(), len(pixel_values), tokens.device)
        return output.logits.squeeze(0)[: positions.numel()]

    def _seeds(self, row: PackedRow, version: int) -> list[int]:
        """One seed per sequence of the row, from its tokens alone."""
        lengths = torch.bincount(row.sequences).tolist()
        return [
            view_seed(self.view_seed, version, image_digest(tokens), "tokens")
            for tokens in row.tokens.split(lengths)
        ]

    def _label_logprobs(
        self, logits: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities of `labels`: fp32 `[N]`, no grad, a few rows at a time."""
        chunks = zip(logits.detach().split(_ROWS), labels.split(_ROWS))
        return torch.cat(
            [
                log_probs(rows, self.temperature).gather(1, chosen[:, None]).squeeze(1)
                for rows, chosen in chunks
            ]
        )

    def _staleness_weights(
        self,
        anchor: torch.Tensor,
        row: PackedRow,
        selected: torch.Tensor,
        version: int,
    ) -> torch.Tensor:
        """Importance weight and decay of each selected token: fp32 `[N]`, no grad."""
        staleness = self.config.staleness
        behaviour = row.behaviour_logprobs[selected]
        if not staleness.importance_weight:
            proximal = behaviour
        elif row.proximal_logprobs is not None:
            proximal = row.proximal_logprobs[selected]
        else:  # prox_logp_method: loglinear
            proximal = self._label_logprobs(anchor, row.labels[selected])
        return staleness_weights(
            proximal,
            behaviour,
            row.versions[selected],
            version,
            cap=staleness.importance_cap,
            decay=staleness.decay,
            max_staleness=staleness.max_staleness,
        )
