"""Encode an image once, however often it appears in a row of tokens.

transformers encodes the images that it is given, in the order of their tokens. Here the
vision tower gets each distinct image once, and what it returns is repeated to that
order. Exact: the tower sees one image at a time, and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        cls, grids: Sequence[Tensor], order: Sequence[int], merge_size: int
    ) -> ImageOrder:
        """From the grids of the distinct image sets, and which of them stand where."""
        sizes = [int(g.prod(-1).sum()) // merge_size**2 for g in grids]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        spans = [torch.arange(end - n, end) for n, end in zip(sizes, ends)]
        grid = torch.cat(list(grids))
        index = torch.cat([spans[i] for i in order]).to(grid.device)
        return cls(grid, index)


class SharedImages:
    """Repeats what the vision tower returns; at most one per model.

    Also keeps the row's packing from the tower: transformers from 5.9 on hands the
    keyword arguments of a call on to it.

    Parameters
    ----------
    visual
        The model's vision tower.
    """

    def __init__(self, visual: nn.Module):
        self._order: ImageOrder | None = None
        visual.register_forward_pre_hook(self._before, with_kwargs=True)
        visual.register_forward_hook(self._after)

    @contextmanager
    def ordered(self, order: ImageOrder | None):
        """Within, the tower is given distinct images, and the row's grid."""
        self._order = order
        try:
            yield
        finally:
            self._order = None

    def _before(self, module, args, kwargs):
        kwargs.pop("packing", None)
        if self._order is not None:
            kwargs["grid_thw"] = self._order.distinct_grid
        return args, kwargs

    def _after(self, module, args, output):
        if self._order is None:
            return output
        index = self._order.token_index
        output.pooler_output = output.pooler_output.index_select(0, index)
        if "deepstack_features" in output:  # Qwen3-VL
            output.deepstack_features = [
                features.index_select(0, index)
                for features in output.deepstack_features
            ]
        return output
