"""Rows of tokens: what one forward pass of the model computes.

A row holds the prompt of each group once and then what each of its responses adds, in
segments that attend to their own keys and their prompt's (`attention.py`). The loss
never sees this: to it a row is its responses one after the other, each whole, and
`places` says where in the row each of those tokens was computed.

All ranks run the same layers in the same order, so that every row has an image: one
without gets a tiny one, in a segment of its own behind the rest. A row may be empty but
for that.

Letters: `B` responses of a padded batch, `S` its padded length, `T` tokens of a row,
`L` tokens of its responses, each whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from areal_cppo.core import PatchLayout
from areal_cppo.step.attention import Packing
from areal_cppo.step.images import ImageOrder
from areal_cppo.step.prompts import PromptGroup


@dataclass(frozen=True)
class Batch:
    """A padded batch as rows are cut from it, on the device of the model.

    Attributes
    ----------
    input_ids, image_tokens
        Int64 and int `[B, S]`; `image_tokens` is 1 at an image's tokens.
    position_ids
        Int64 `[3, B, S]`: temporal, vertical and horizontal.
    lengths
        Tokens per response.
    images
        Per response `pixel_values` and `image_grid_thw`, or nothing.
    sets
        Per response the first one with the same images, or `None`.
    """

    input_ids: Tensor
    image_tokens: Tensor
    position_ids: Tensor
    lengths: list[int]
    images: list[dict[str, Any]]
    sets: list[int | None]


@dataclass(frozen=True)
class RowStyle:
    """What rows of one model look like.

    Attributes
    ----------
    layout
        Of the model's images.
    image_token_id
        Of the model.
    share_images
        Whether an image is encoded once per row.
    kernel
        What computes the attention, as `Packing` has it.
    page
        Rows are padded to a multiple of this many tokens.
    extra
        Further keyword arguments of the model.
    """

    layout: PatchLayout
    image_token_id: int
    share_images: bool
    kernel: str
    page: int
    extra: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One forward pass.

    Attributes
    ----------
    inputs
        Keyword arguments of the model: `input_ids` `[1, T]`, `position_ids`
        `[3, 1, T]`, `pixel_values`, `image_grid_thw`, `packing`, ...
    rows
        The batch's rows whose responses it holds, in their order.
    places
        Int64 `[L]`: the place in the row of each token of each of them.
    image_rows
        The batch's rows whose images are in `pixel_values`, in their order; behind them
        there may be the tiny image.
    image_order
        How the images' features are repeated; `None`: each stands once.
    """

    inputs: dict[str, Any]
    rows: list[int]
    places: Tensor
    image_rows: list[int]
    image_order: ImageOrder | None


@dataclass
class _Plan:
    """Segments of a row, and where its responses' tokens are."""

    tokens: list[Tensor]  # of the flattened batch, a piece a segment
    keys: list[Tensor]  # places in the row, a piece a segment
    places: list[Tensor]  # in the row, pieces of responses
    rows: list[int]
    length: int = 0

    def segment(self, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """Append a segment that also sees the keys `before`; its places."""
        own = torch.arange(self.length, self.length + len(tokens))
        self.tokens.append(tokens)
        self.keys.append(own if before is None else torch.cat([before, own]))
        self.length += len(tokens)
        return own


def _plan(groups: Sequence[PromptGroup], batch: Batch) -> _Plan:
    plan = _Plan([], [], [], [])
    width = batch.input_ids.shape[1]
    for group in groups:
        start = group.rows[0] * width
        prompt = None
        if group.prefix:
            prompt = plan.segment(torch.arange(start, start + group.prefix))
            plan.places.append(prompt)
        for i, row in enumerate(group.rows):
            start = row * width
            own = torch.arange(start + group.prefix, start + batch.lengths[row])
            if prompt is not None and i > 0:
                plan.places.append(prompt)
            plan.places.append(plan.segment(own, prompt))
            plan.rows.append(row)
    return plan


def make_row(groups: Sequence[PromptGroup], batch: Batch, style: RowStyle) -> Row:
    """Lay out the forward pass of some groups of responses, perhaps none."""
    device = batch.input_ids.device
    plan = _plan(groups, batch)
    # One image set a group: responses share a prompt with its images or stand alone.
    occurrences = [batch.sets[group.rows[0]] for group in groups]
    occurrences = [image_set for image_set in occurrences if image_set is not None]
    image_rows = occurrences
    if style.share_images:
        image_rows = list(dict.fromkeys(occurrences))
    tail = 0 if occurrences else 1  # the tiny image is one token
    tail += -(plan.length + tail) % style.page
    inputs = _token_inputs(plan, batch, style, tail, tiny_image=not occurrences)
    order = _image_inputs(inputs, batch, style, occurrences, image_rows)
    queries = [len(piece) for piece in plan.tokens] + [tail] * (tail > 0)
    keys = [len(piece) for piece in plan.keys] + [tail] * (tail > 0)
    index = None
    if sum(keys) != sum(queries):
        ends = torch.arange(plan.length, plan.length + tail)
        index = torch.cat([*plan.keys, ends]).to(device)
    inputs["packing"] = Packing(queries, keys, index, device, style.kernel)
    return Row(
        inputs=inputs | style.extra,
        rows=plan.rows,
        places=_cat(plan.places).to(device),
        image_rows=image_rows,
        image_order=order,
    )


def _token_inputs(
    plan: _Plan, batch: Batch, style: RowStyle, tail: int, *, tiny_image: bool
) -> dict[str, Any]:
    """Ids, kinds and positions of the row's tokens, `tail` tokens behind them."""
    tokens = _cat(plan.tokens).to(batch.input_ids.device)

    def packed(tensor: Tensor) -> Tensor:  # [..., B, S] to [..., 1, T]
        part = tensor.flatten(-2).index_select(-1, tokens)
        return torch.nn.functional.pad(part, (0, tail)).unsqueeze(-2)

    inputs = {
        "input_ids": packed(batch.input_ids),
        "mm_token_type_ids": packed(batch.image_tokens),
        "position_ids": packed(batch.position_ids),
    }
    if tiny_image:
        inputs["input_ids"][0, plan.length] = style.image_token_id
        inputs["mm_token_type_ids"][0, plan.length] = 1
    return inputs


def _image_inputs(
    inputs: dict[str, Any],
    batch: Batch,
    style: RowStyle,
    occurrences: list[int],
    image_rows: list[int],
) -> ImageOrder | None:
    """Add the row's images, or the tiny one, to `inputs`."""
    device, merge = batch.input_ids.device, style.layout.merge_size
    if not occurrences:
        inputs["pixel_values"] = torch.zeros(
            merge**2, style.layout.patch_features, device=device
        )
        inputs["image_grid_thw"] = torch.tensor([[1, merge, merge]], device=device)
        return None
    images = batch.images
    inputs["pixel_values"] = torch.cat(
        [images[row]["pixel_values"].to(device) for row in image_rows]
    )
    grids = {row: images[row]["image_grid_thw"].to(device) for row in image_rows}
    inputs["image_grid_thw"] = torch.cat([grids[row] for row in occurrences])
    if len(image_rows) == len(occurrences):
        return None
    place = {row: i for i, row in enumerate(image_rows)}
    return ImageOrder.make(
        list(grids.values()), [place[row] for row in occurrences], merge
    )


def _cat(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.long)
