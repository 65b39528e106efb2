"""Packed micro-batches as AReaL's loss sees them: responses one after the other.

Letters: `B` sequences of a padded batch, `S` its padded length, `T` tokens of a packed
micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

IMAGES = "multi_modal_input"  # AReaL's key: a dict of image tensors per sequence


def block_diagonal_causal_mask(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
    """Attention mask of a packed row: causal, and within one sequence only.

    For text models, which AReaL runs: it leaves it to flash-attention's `cu_seqlens` to
    keep the sequences of a row apart, and under sdpa nothing does.

    Parameters
    ----------
    cu_seqlens
        Int `[n_sequences + 1]`, boundaries of the sequences, from 0 to `length`.
    length
        Tokens in the row.

    Returns
    -------
    Tensor
        Bool `[1, 1, T, T]`; `True` where a query (third axis) may see a key (fourth).
    """
    position = torch.arange(length, device=cu_seqlens.device)
    segment = torch.bucketize(position, cu_seqlens[1:].long(), right=True)
    same_sequence = segment[:, None] == segment[None, :]
    not_later = position[:, None] >= position[None, :]
    return (same_sequence & not_later)[None, None]


def sequence_ids(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Index of the sequence that each packed token belongs to: int64 `[T]`."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    return torch.repeat_interleave(
        torch.arange(len(lengths), device=cu_seqlens.device), lengths
    )


def gate_tokens(batch: dict[str, Any], gate: str) -> torch.Tensor:
    """Tokens that CPL may select, of a padded batch or a packed row.

    Parameters
    ----------
    batch
        `loss_mask` and `advantages`, both already shifted as AReaL's loss sees them
        (position `t` predicts token `t + 1`).
    gate
        `positive_advantage` (arXiv 2601.00501) or `none`.

    Returns
    -------
    Tensor
        Bool, shape of `loss_mask`.
    """
    response = batch["loss_mask"].bool()
    if gate == "none":
        return response
    return response & (batch["advantages"] > 0)


@dataclass(frozen=True)
class PackedRow:
    """What CPL needs of a micro-batch; tensors `[T]`, as AReaL's loss sees them."""

    gate: torch.Tensor  # bool: tokens that may be selected
    responses: torch.Tensor  # bool [sequences]: those in the view passes
    tokens: torch.Tensor  # int: the token at each position
    labels: torch.Tensor  # int: the token that each position predicts
    sequences: torch.Tensor  # int: which sequence
    versions: torch.Tensor  # int: policy version that sampled the predicted token
    behaviour_logprobs: torch.Tensor
    proximal_logprobs: torch.Tensor | None

    @classmethod
    def from_micro_batch(
        cls, mb: dict[str, Any], gate: str, entering: torch.Tensor
    ) -> PackedRow:
        """Read a packed micro-batch (`ctx.mb_input` of AReaL's FSDP engine).

        `entering` is bool `[sequences]`, those in the view passes; of the others no
        token is gated. `input_ids` and `versions` are stored at the token itself and
        shifted here; `loss_mask`, `advantages`, `logprobs` and `prox_logp` come
        shifted. Positions where the shift crosses a sequence boundary have no loss and
        so no gate.
        """
        sequences = sequence_ids(mb["cu_seqlens"])
        return cls(
            gate=gate_tokens(mb, gate) & entering[sequences],
            responses=entering,
            tokens=mb["input_ids"],
            labels=next_tokens(mb),
            sequences=sequences,
            versions=torch.roll(mb["versions"], shifts=-1, dims=-1),
            behaviour_logprobs=mb["logprobs"],
            proximal_logprobs=mb.get("prox_logp"),
        )


def next_tokens(mb: dict[str, Any]) -> torch.Tensor:
    """The token that each position of a packed micro-batch predicts: int `[T]`."""
    return torch.roll(mb["input_ids"], shifts=-1, dims=-1)


def has_image(batch: dict[str, Any]) -> torch.Tensor:
    """Which rows of a padded batch carry an image: bool `[B]`."""
    n_rows = batch["input_ids"].shape[0]
    items = batch.get(IMAGES) or [{}] * n_rows
    return torch.tensor(
        ["pixel_values" in item for item in items],
        device=batch["input_ids"].device,
    )
