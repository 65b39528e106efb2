"""Packed rows: who may attend to whom, and which responses share a micro-batch.

AReaL packs the sequences of a micro-batch into one row and leaves it to
flash-attention's `cu_seqlens` to keep them apart. Under sdpa nothing keeps them apart,
so this module makes the block-diagonal causal mask that does.

It also splits a batch into the responses that the gate lets through and the others,
before AReaL packs them: a view pass then runs over full rows of gated responses only.
All ranks run the same layers in the same order: those that have fewer rows of a kind
than their neighbours get filler rows (one token, no loss), and a micro-batch without an
image gets a tiny one in its padding, so that the vision tower runs everywhere.

Letters: `B` sequences of a padded batch, `S` its padded length, `T` tokens of a packed
row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from areal.utils.data import MicroBatchList, concat_padded_tensors

from areal_cppo.core import PatchLayout

IMAGES = "multi_modal_input"  # AReaL's key: a dict of image tensors per sequence
# Of a micro-batch that takes part in the view passes: which rows of the batch it holds.
VIEW_ROWS = "cpl_view_rows"
_PAGE = 256  # tokens; AReaL pads every packed row to a multiple of it


def block_diagonal_causal_mask(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
    """Attention mask of a packed row: causal, and within one sequence only.

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
    responses: torch.Tensor  # bool [sequences]: false for fillers
    tokens: torch.Tensor  # int: the token at each position
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
            tokens=mb["input_ids"],
            labels=torch.roll(mb["input_ids"], shifts=-1, dims=-1),
            sequences=sequences,
            versions=torch.roll(mb["versions"], shifts=-1, dims=-1),
            behaviour_logprobs=mb["logprobs"],
            proximal_logprobs=mb.get("prox_logp"),
        )


def has_image(batch: dict[str, Any]) -> torch.Tensor:
    """Which rows of a padded batch carry an image: bool `[B]`."""
    n_rows = batch["input_ids"].shape[0]
    items = batch.get(IMAGES) or [{}] * n_rows
    return torch.tensor(
        ["pixel_values" in item for item in items],
        device=batch["input_ids"].device,
    )


def with_image_grid(batch: dict[str, Any]) -> dict[str, Any]:
    """`batch`, with an empty image grid in its first row if none has an image.

    Without a grid AReaL can't compute the positions of a Qwen-VL batch.
    """
    n_rows = batch["input_ids"].shape[0]
    items = list(batch.get(IMAGES) or [{} for _ in range(n_rows)])
    if not any("image_grid_thw" in item for item in items):
        grid = torch.zeros(0, 3, dtype=torch.long, device=batch["input_ids"].device)
        items[0] = {**items[0], "image_grid_thw": grid}
    return {**batch, IMAGES: items}


def add_missing_images(
    mb_list: MicroBatchList, layout: PatchLayout, image_token_id: int
) -> None:
    """Give each micro-batch without an image a tiny one, in its padding; in place.

    A row without an image would skip the vision tower, whose parameters other ranks
    gather and reduce at that moment: they would wait for ever.
    """
    for i, mb in enumerate(mb_list.padded_mbs):
        if "pixel_values" in mb:
            continue
        if mb_list.padding_lengths[i] == 0:
            _add_page(mb)
            mb_list.padding_lengths[i] += _PAGE
            mb_list.padded_to_lengths[i] += _PAGE
        for key, value in (("input_ids", image_token_id), ("mm_token_type_ids", 1)):
            mb[key] = mb[key].clone()
            mb[key][..., -1] = value
        merge = layout.merge_size
        device = mb["input_ids"].device
        mb["pixel_values"] = torch.zeros(merge**2, layout.patch_features, device=device)
        mb["image_grid_thw"] = torch.tensor([[1, merge, merge]], device=device)


def _add_page(mb: dict[str, Any]) -> None:
    """Append one page of padding, a sequence of its own, to a packed row; in place."""
    for key in ("input_ids", "position_ids", "mm_token_type_ids"):
        mb[key] = torch.nn.functional.pad(mb[key], (0, _PAGE))
    bounds = mb["cu_seqlens"]
    bounds = torch.cat([bounds, bounds[-1:] + _PAGE])
    mb["cu_seqlens"] = mb["cu_seq_lens_q"] = mb["cu_seq_lens_k"] = bounds
    for key in ("max_seqlen", "max_length_q", "max_length_k"):
        mb[key] = max(mb[key], _PAGE)


def select_rows(batch: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The rows (bool `[B]`) of a padded batch, in their order."""
    n_rows = rows.numel()
    index = rows.nonzero().flatten()
    selected = {}
    for key, value in batch.items():
        if torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == n_rows:
            selected[key] = value[index]
        elif isinstance(value, list) and len(value) == n_rows:
            selected[key] = [value[i] for i in index.tolist()]
        else:
            selected[key] = value
    return selected


def filler_row(batch: dict[str, Any]) -> dict[str, Any]:
    """A row of one token without loss, with every key of `batch`."""
    row = {}
    for key, value in batch.items():
        if torch.is_tensor(value):
            shape = (1, 1) if value.ndim > 1 else (1,)
            row[key] = torch.zeros(shape, dtype=value.dtype, device=value.device)
        else:
            row[key] = [{}] if key == IMAGES else value
    row["attention_mask"][:] = True
    return row


def fill_rows(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """`batch` with filler rows appended until it has `count` rows."""
    n_rows = batch["input_ids"].shape[0]
    if n_rows >= count:
        return batch
    fillers = [filler_row(batch)] * (count - n_rows)
    return concat_padded_tensors([batch, *fillers] if n_rows else fillers)


def mark_view_rows(mb_list: MicroBatchList, rows: list[int]) -> None:
    """Note in each micro-batch which rows of the batch it holds; in place.

    `rows` are those of the batch that was packed, fillers (at its end) left out.
    """
    order = iter(mb_list.forward_indices)
    for mb in mb_list.mbs:
        packed = [next(order) for _ in range(mb["cu_seqlens"].numel() - 1)]
        mb[VIEW_ROWS] = [rows[i] for i in packed if i < len(rows)]


def join_micro_batches(gated: MicroBatchList, rest: MicroBatchList) -> MicroBatchList:
    """One list of micro-batches, those of gated responses first."""
    for mb in rest.mbs:
        mb[VIEW_ROWS] = None
    return replace(
        gated,
        forward_indices=None,  # the order of rows is lost: nothing may be un-packed
        backward_indices=None,
        _max_seqlen=None,
        **{
            name: _joined(getattr(gated, name), getattr(rest, name))
            for name in (
                "mbs",
                "group_lens",
                "padded_mbs",
                "padding_lengths",
                "padded_to_lengths",
                "align_to_lengths",
                "old_cu_seqlens_list",
            )
        },
    )


def _joined(first: list | None, second: list | None) -> list | None:
    return None if first is None or second is None else first + second
