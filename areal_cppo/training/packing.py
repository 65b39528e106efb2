"""Packed rows: who may attend to whom, and which responses share a micro-batch.

AReaL packs the sequences of a micro-batch into one row and leaves it to
flash-attention's `cu_seqlens` to keep them apart. Under sdpa nothing keeps them apart,
so this module makes the block-diagonal causal mask that does.

It also splits a batch into the responses that the gate lets through and the others,
before AReaL packs them: a view pass then runs over full rows of gated responses only.
Ranks that have fewer of a kind than their neighbours get filler rows (four tokens, one
image patch group, no loss), so that all ranks run the same number of micro-batches.

Letters: `B` sequences of a padded batch, `S` its padded length, `T` tokens of a packed
row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from areal.utils.data import MicroBatchList, concat_padded_tensors

IMAGES = "multi_modal_input"  # AReaL's key: a dict of image tensors per sequence
GATED = "cpl_gated"  # marks a micro-batch that takes part in the view passes


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


def has_image(batch: dict[str, Any]) -> torch.Tensor:
    """Which rows of a padded batch carry an image: bool `[B]`."""
    n_rows = batch["input_ids"].shape[0]
    items = batch.get(IMAGES) or [{}] * n_rows
    return torch.tensor(
        ["image_grid_thw" in item for item in items],
        device=batch["input_ids"].device,
    )


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


def filler_row(batch: dict[str, Any], model_config) -> dict[str, Any]:
    """A row with no loss that still drives the whole model, vision tower included.

    Four tokens around the smallest image there is (one merged token). Every key of
    `batch` is there; masks, advantages and log-probs are zero.
    """
    vision = model_config.vision_config
    merge, channels = vision.spatial_merge_size, vision.in_channels
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    ids = [
        model_config.vision_start_token_id,
        model_config.image_token_id,
        model_config.vision_end_token_id,
        0,
    ]
    device = batch["input_ids"].device
    row = {}
    for key, value in batch.items():
        if torch.is_tensor(value):
            row[key] = torch.zeros(
                (1, len(ids)) if value.ndim > 1 else (1,),
                dtype=value.dtype,
                device=device,
            )
        elif key != IMAGES:
            row[key] = value
    row["input_ids"][0] = torch.tensor(ids, device=device)
    row["attention_mask"][:] = True
    row["mm_token_type_ids"][0, 1] = 1
    row[IMAGES] = [
        {
            "pixel_values": torch.zeros(merge * merge, width, device=device),
            "image_grid_thw": torch.tensor([[1, merge, merge]], device=device),
        }
    ]
    return row


def fill_rows(batch: dict[str, Any], count: int, model_config) -> dict[str, Any]:
    """`batch` with filler rows appended until it has `count` rows, and an image.

    Without an image AReaL could not compute the positions of a Qwen-VL batch.
    """
    n_rows = batch["input_ids"].shape[0]
    missing = max(count - n_rows, 0 if has_image(batch).any() else 1)
    if missing <= 0:
        return batch
    fillers = [filler_row(batch, model_config)] * missing
    if n_rows == 0:
        return concat_padded_tensors(fillers)
    return concat_padded_tensors([batch, *fillers])


def join_micro_batches(gated: MicroBatchList, rest: MicroBatchList | None):
    """One list of micro-batches, the gated ones first and marked with `GATED`."""
    for mb in gated.mbs:
        mb[GATED] = True
    if rest is None:
        return gated
    for mb in rest.mbs:
        mb[GATED] = False
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
