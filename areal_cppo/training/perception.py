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
from areal.utils import stats_tracker

from areal_cppo.core import (
    CPLConfig,
    PatchLayout,
    aggregate_token_loss,
    contrastive_perception_loss,
    entropy_gain,
    parse_perturbations,
    perturb_pixel_values,
    select_perception_tokens,
    select_random_tokens,
    staleness_weights,
    token_divergence,
    token_entropy,
)
from areal_cppo.training.packing import gate_tokens, sequence_ids
from areal_cppo.training.perception_stats import (
    record_loss,
    record_scores,
    record_views,
)


@dataclass(frozen=True)
class PackedRow:
    """What CPL needs of a micro-batch; tensors `[T]`, as AReaL's loss sees them."""

    gate: torch.Tensor  # bool: tokens that may be selected
    responses: torch.Tensor  # bool [sequences]: false for fillers
    labels: torch.Tensor  # int: the token that each position predicts
    sequences: torch.Tensor  # int: which sequence
    versions: torch.Tensor  # int: policy version that sampled the predicted token
    behaviour_logprobs: torch.Tensor
    proximal_logprobs: torch.Tensor | None

    @classmethod
    def from_micro_batch(cls, mb: dict[str, Any], gate: str) -> PackedRow:
        """Read a packed micro-batch (`ctx.mb_input` of AReaL's FSDP engine).

        `input_ids` and `versions` are stored at the token itself and shifted here;
        `loss_mask`, `advantages`, `logprobs` and `prox_logp` come shifted. Positions
        where the shift crosses a sequence boundary have no loss and so no gate.
        """
        sequences = sequence_ids(mb["cu_seqlens"])
        n_sequences = mb["cu_seqlens"].numel() - 1
        tokens = torch.zeros(n_sequences, dtype=torch.long, device=sequences.device)
        tokens.index_add_(0, sequences, mb["loss_mask"].bool().long())
        return cls(
            gate=gate_tokens(mb, gate),
            responses=tokens > 0,
            labels=torch.roll(mb["input_ids"], shifts=-1, dims=-1),
            sequences=sequences,
            versions=torch.roll(mb["versions"], shifts=-1, dims=-1),
            behaviour_logprobs=mb["logprobs"],
            proximal_logprobs=mb.get("prox_logp"),
        )


class PerceptionLoss:
    """Computes CPL for packed rows of one model.

    Parameters
    ----------
    model
        The policy, as AReaL's engine calls it: `model(**inputs).logits`, which takes
        `logits_to_keep` as an index tensor.
    config
        `actor.cpl`.
    layout
        How the model's `pixel_values` are patched.
    view_seed
        Seed of the run; together with the policy version and the image it fixes a view.
    temperature
        Of the policy's distribution.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        config: CPLConfig,
        layout: PatchLayout,
        *,
        view_seed: int,
        temperature: float,
    ):
        self.model = model
        self.config = config
        self.layout = layout
        self.view_seed = view_seed
        self.temperature = temperature
        self.perturbations = {
            "positive": parse_perturbations(config.views.positive),
            "negative": parse_perturbations(config.views.negative),
        }

    def select(
        self,
        anchor_logits: torch.Tensor,
        inputs: dict[str, Any],
        row: PackedRow,
        version: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the negative view and select the row's perception tokens.

        Parameters
        ----------
        anchor_logits
            `[T, V]`.
        inputs
            The model's inputs of the anchor pass.
        row
            The row's tokens.
        version
            Current policy version.

        Returns
        -------
        tuple
            Selected positions, int64 `[N]`, ascending; the negative view's logits
            there, `[N, V]`, with gradient if `negative` is among `cpl.grad`.
        """
        gated = row.gate.nonzero().flatten()
        negative = self._view_logits(inputs, gated, "negative", version)
        with torch.no_grad():
            anchor_entropy = token_entropy(anchor_logits[gated], self.temperature)
            negative_entropy = token_entropy(negative, self.temperature)
            gain = entropy_gain(anchor_entropy, negative_entropy)
            selected = self._selection(gain, row.sequences[gated], version)
        record_scores(
            row.gate, row.responses, gated, anchor_entropy, negative_entropy, gain
        )
        return gated[selected], negative[selected]

    def __call__(
        self,
        anchor_logits: torch.Tensor,
        inputs: dict[str, Any],
        row: PackedRow,
        *,
        version: int,
        normalizer: int,
    ) -> torch.Tensor:
        """The row's part of CPL, before `coef`: a scalar with gradient.

        `normalizer` is the number of gated responses (aggregation `sequence`) or of
        selected tokens (`token`) in the whole global batch.
        """
        config = self.config
        selected, negative = self.select(anchor_logits, inputs, row, version)
        positive = self._view_logits(inputs, selected, "positive", version)
        anchor = self._branch("anchor", anchor_logits[selected])
        labels = row.labels[selected]
        to_positive, to_negative = (
            token_divergence(
                anchor, view, labels, config.divergence, temperature=self.temperature
            )
            for view in (positive, negative)
        )
        token_loss = contrastive_perception_loss(to_positive, to_negative, config.tau)
        weights = self._staleness_weights(anchor, row, selected, version)
        record_loss(row.gate, selected, token_loss, to_positive, to_negative, weights)
        loss = aggregate_token_loss(
            token_loss * weights,
            row.sequences[selected],
            config.aggregation,
            normalizer,
        )
        # An empty selection must still lead back through every pass that has a graph.
        return loss + sum(x[:0].sum() for x in (anchor_logits, negative, positive))

    def _view_logits(
        self, inputs: dict[str, Any], positions: torch.Tensor, kind: str, version: int
    ) -> torch.Tensor:
        """Logits `[len(positions), V]` of the row seen through one view per image."""
        with stats_tracker.record_timing(f"cpl_{kind}_view"):
            view = perturb_pixel_values(
                inputs["pixel_values"],
                inputs["image_grid_thw"],
                self.layout,
                self.perturbations[kind],
                kind=kind,
                run_seed=self.view_seed,
                policy_version=version,
            )
            # A model that is asked for no position at all would skip its last layers'
            # collectives on some ranks: ask for one, and use none of it.
            keep = positions if positions.numel() else positions.new_zeros(1)
            has_grad = kind in self.config.grad
            with nullcontext() if has_grad else torch.no_grad():
                output = self.model(
                    **{**inputs, "pixel_values": view.pixel_values},
                    logits_to_keep=keep,
                )
        record_views(kind, view.unchanged)
        return output.logits.squeeze(0)[: positions.numel()]

    def _branch(self, name: str, logits: torch.Tensor) -> torch.Tensor:
        return logits if name in self.config.grad else logits.detach()

    def _selection(
        self, gain: torch.Tensor, sequences: torch.Tensor, version: int
    ) -> torch.Tensor:
        """Which of the gated tokens are perception tokens: bool `[G]`."""
        eligible = torch.ones_like(gain, dtype=torch.bool)
        fraction = self.config.top_fraction
        if self.config.selection == "all":
            return eligible
        if self.config.selection == "random":
            generator = torch.Generator().manual_seed(self.view_seed + version)
            return select_random_tokens(eligible, sequences, fraction, generator)
        return select_perception_tokens(gain, eligible, sequences, fraction)

    def _staleness_weights(
        self,
        anchor: torch.Tensor,
        row: PackedRow,
        selected: torch.Tensor,
        version: int,
    ) -> torch.Tensor:
        """Importance weight and decay of each selected token: fp32 `[N]`, no grad."""
        behaviour = row.behaviour_logprobs[selected]
        if row.proximal_logprobs is None:  # prox_logp_method: loglinear
            labels = row.labels[selected, None]
            scaled = anchor.detach().float() / self.temperature
            proximal = scaled.log_softmax(-1).gather(-1, labels).squeeze(-1)
        else:
            proximal = row.proximal_logprobs[selected]
        staleness = self.config.staleness
        return staleness_weights(
            proximal,
            behaviour,
            row.versions[selected],
            version,
            cap=staleness.importance_cap,
            decay=staleness.decay,
            max_staleness=staleness.max_staleness,
        )
