"""Rows of tokens: what one forward pass of the model computes.

A row holds the prompt of each group once and then what each of its responses adds, in
segments that attend to their own keys and their prompt's (`attention.py`). The loss
never sees this: to it a micro-batch is its responses one after the other, each whole,
and `places` says where in the row each of those tokens is computed.

All ranks run the same layers in the same order, so that every row has an image: one
without gets a tiny one, in a segment of its own behind the rest. A row may be empty but
for that. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from areal.engine.core.model import is_qwen3_vl_model
from torch import Tensor
from transformers import PreTrainedConfig

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import PatchLayout
from areal_cppo.step.attention import Packing
from areal_cppo.step.batch import Batch, PromptGroup, joined

_PAGE = 256  # tokens; on a GPU rows are padded to it, as AReaL does


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

    @classmethod
    def of(
        cls,
        config: CPPOActorConfig,
        model_config: PreTrainedConfig,
        layout: PatchLayout,
        device: torch.device,
    ) -> RowStyle:
        """That of a model under a configuration, on a device."""
        page = _PAGE if device.type == "cuda" else 1
        if config.pad_to_maximum:
            page = config.mb_spec.max_tokens_per_mb or page
        mask = dict(full_attention=None, sliding_attention=None)
        if is_qwen3_vl_model(model_config.model_type):
            mask = None
        return cls(
            layout,
            model_config.image_token_id,
            config.speed.share_images,
            kernel=config.attn_impl,
            page=page,
            extra={"attention_mask": mask, "use_cache": False},
        )


@dataclass(frozen=True)
class ImageOrder:
    """Which distinct image stands where.

    Attributes
    ----------
    distinct_grid
        Int64 `[images, 3]`: `image_grid_thw` of those that the tower gets.
    token_index
        Int64: for each image token of the row its place among the tower's outputs.
    """

    distinct_grid: Tensor
    token_index: Tensor

    @classmethod
    def make(
        cls,
        grids: Sequence[Tensor],
        order: Sequence[int],
        merge_size: int,
        device: torch.device,
    ) -> ImageOrder:
        """From the grids of the distinct image sets, and which of them stand where."""
        sizes = [int(g.prod(-1).sum()) // merge_size**2 for g in grids]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        spans = [torch.arange(end - n, end) for n, end in zip(sizes, ends)]
        index = torch.cat([spans[i] for i in order])
        return cls(torch.cat(list(grids)).to(device), index.to(device))


@dataclass(frozen=True)
class Row:
    """One forward pass, but for its pictures, which may be the anchors or their views.

    Attributes
    ----------
    inputs
        Keyword arguments of the model: `input_ids` `[1, R]`, `position_ids`
        `[3, 1, R]`, `image_grid_thw`, `packing`, ...
    responses
        Those of the batch that it holds, in their order.
    places
        Int64 `[T]`: the place in the row of each token of each of them.
    image_sets
        Of which of the batch's sets of images it has the patches, in their order; none:
        it has the tiny image.
    image_order
        How the images' features are repeated; None: each stands once.
    layout
        Of the images.
    """

    inputs: dict[str, Any]
    responses: list[int]
    places: Tensor
    image_sets: list[int]
    image_order: ImageOrder | None
    layout: PatchLayout

    @property
    def tokens(self) -> int:
        """Places of the row."""
        return self.inputs["input_ids"].numel()

    def pixel_values(self, of: Callable[[int], Tensor]) -> Tensor:
        """What the vision tower gets: `[P, F]`; `of` gives those of an image set."""
        device = self.places.device
        if not self.image_sets:
            tiny = self.layout.merge_size**2, self.layout.patch_features
            return torch.zeros(tiny, device=device)
        return torch.cat([of(i).to(device) for i in self.image_sets])


@dataclass
class _Segments:
    """Segments of a row, and where its responses' tokens are."""

    tokens: list[Tensor] = field(default_factory=list)  # of the flattened batch
    keys: list[Tensor] = field(default_factory=list)  # places in the row
    places: list[Tensor] = field(default_factory=list)  # in the row, a piece a response
    responses: list[int] = field(default_factory=list)
    length: int = 0

    def add(self, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """Append a segment that also sees the keys `before`; its places."""
        own = torch.arange(self.length, self.length + len(tokens))
        self.tokens.append(tokens)
        self.keys.append(own if before is None else torch.cat([before, own]))
        self.length += len(tokens)
        return own

    @classmethod
    def of(cls, groups: Sequence[PromptGroup], batch: Batch) -> _Segments:
        segments = cls()
        width = batch.input_ids.shape[1]
        for group in groups:
            start = group.responses[0] * width
            prompt = None
            if group.prefix:
                prompt = segments.add(torch.arange(start, start + group.prefix))
            for i in group.responses:
                start = i * width
                own = torch.arange(start + group.prefix, start + batch.lengths[i])
                if prompt is not None:
                    segments.places.append(prompt)
                segments.places.append(segments.add(own, prompt))
                segments.responses.append(i)
        return segments


def make_row(groups: Sequence[PromptGroup], batch: Batch, style: RowStyle) -> Row:
    """Lay out the forward pass of some groups of responses, perhaps none."""
    device = batch.input_ids.device
    segments = _Segments.of(groups, batch)
    # One image set a group: responses share a prompt with its images or stand alone.
    occurrences = [batch.sets[group.responses[0]] for group in groups]
    occurrences = [image_set for image_set in occurrences if image_set is not None]
    image_sets = occurrences
    if style.share_images:
        image_sets = list(dict.fromkeys(occurrences))
    tail = 0 if occurrences else 1  # the tiny image is one token
    tail += -(segments.length + tail) % style.page
    inputs = _token_inputs(segments, batch, style, tail, tiny_image=not occurrences)
    grid, order = _grids(batch, style, occurrences, image_sets)
    queries = [len(piece) for piece in segments.tokens] + [tail] * (tail > 0)
    keys = [len(piece) for piece in segments.keys] + [tail] * (tail > 0)
    index = None
    if sum(keys) != sum(queries):
        ends = torch.arange(segments.length, segments.length + tail)
        index = torch.cat([*segments.keys, ends]).to(device)
    packing = Packing(queries, keys, index, device, style.kernel)
    return Row(
        inputs=inputs | {"image_grid_thw": grid, "packing": packing} | style.extra,
        responses=segments.responses,
        places=joined(segments.places).to(device),
        image_sets=image_sets,
        image_order=order,
        layout=style.layout,
    )


def _token_inputs(
    segments: _Segments, batch: Batch, style: RowStyle, tail: int, *, tiny_image: bool
) -> dict[str, Any]:
    """Ids, kinds and positions of the row's tokens, `tail` tokens behind them."""
    tokens = joined(segments.tokens).to(batch.input_ids.device)

    def packed(tensor: Tensor) -> Tensor:  # [..., B, S] to [..., 1, R]
        part = tensor.flatten(-2).index_select(-1, tokens)
        return torch.nn.functional.pad(part, (0, tail)).unsqueeze(-2)

    inputs = {
        "input_ids": packed(batch.input_ids),
        "mm_token_type_ids": packed(batch.image_tokens),
        "position_ids": packed(batch.position_ids),
    }
    if tiny_image:
        inputs["input_ids"][0, segments.length] = style.image_token_id
        inputs["mm_token_type_ids"][0, segments.length] = 1
    return inputs


def _grids(
    batch: Batch, style: RowStyle, occurrences: list[int], image_sets: list[int]
) -> tuple[Tensor, ImageOrder | None]:
    """The row's `image_grid_thw`, and how features of distinct images are repeated."""
    device, merge = batch.input_ids.device, style.layout.merge_size
    if not occurrences:
        return torch.tensor([[1, merge, merge]], device=device), None
    grids = {i: batch.images[i]["image_grid_thw"].cpu() for i in image_sets}
    grid = torch.cat([grids[i] for i in occurrences]).to(device)
    if len(image_sets) == len(occurrences):
        return grid, None
    place = {image_set: i for i, image_set in enumerate(image_sets)}
    order = [place[i] for i in occurrences]
    return grid, ImageOrder.make(list(grids.values()), order, merge, device)
