"""From a batch to micro-batches: which responses share a forward pass.

Responses are packed by groups that share a prompt. Groups with a response that enters
the view passes get micro-batches of their own, first, and each of those a second row:
the views' row, of the entering responses only. All ranks have as many micro-batches of
each kind; those that lack some get empty ones.

The loss is AReaL's and sees AReaL's packed dictionaries, in which each response stands
whole. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import DEFAULT_MAX_TOKENS_PER_MB, allocate_balanced_mbs
from torch import Tensor

from areal_cppo.step.batch import Batch, PromptGroup, prompt_groups
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.rows import Row, RowStyle, make_row


@dataclass(frozen=True)
class MicroBatch:
    """Some responses, and the passes that compute them.

    Attributes
    ----------
    data
        AReaL's packed dictionary, tensors `[T]`: what the loss is computed from.
    images
        Of the batch: per response `pixel_values` and `image_grid_thw`, or nothing.
    needed
        Int64 `[W]`: those of the T tokens whose distribution the loss asks for.
    anchor
        The row of all responses.
    view
        The row of the views; None: there is none, on all ranks.
    view_places
        Int64 `[T]`: the place of each token in the views' row, -1 where it has none.
    """

    data: dict[str, Any]
    images: list[dict[str, Any]]
    needed: Tensor
    anchor: Row
    view: Row | None
    view_places: Tensor

    @property
    def labels(self) -> Tensor:
        """The token that each position predicts: int `[T]`."""
        return torch.roll(self.data["input_ids"], shifts=-1, dims=-1)

    def spread(self, values: Tensor) -> Tensor:
        """Values `[W]` of the needed tokens among all: fp32 `[T]`, 0 elsewhere."""
        row = torch.zeros(
            len(self.data["input_ids"]), dtype=torch.float32, device=values.device
        )
        return row.index_copy(0, self.needed, values)


@dataclass(frozen=True)
class Packer:
    """Cuts batches into micro-batches.

    Attributes
    ----------
    spec
        AReaL's `mb_spec`: at most how many tokens, at least how many micro-batches.
    style
        Of the rows.
    share_prompts
        Whether responses are packed by groups.
    ranks
        The data-parallel ranks.
    """

    spec: MicroBatchSpec
    style: RowStyle
    share_prompts: bool
    ranks: Ranks

    def __call__(
        self, batch: Batch, entering: Collection[int] = ()
    ) -> list[MicroBatch]:
        """Make the micro-batches; all ranks call it.

        `entering` are the responses that enter the view passes.
        """
        groups = self._groups(batch)
        with_views = self._allocate([g for g in groups if g.only(entering)], batch)
        without = self._allocate([g for g in groups if not g.only(entering)], batch)
        counts = torch.tensor([len(with_views), len(without)])
        most_views, most_others = self.ranks.largest(counts).tolist()
        most_others += -(most_views + most_others) % self.spec.n_mbs_divisor
        with_views += [[]] * (most_views - len(with_views))
        without += [[]] * (most_others - len(without))
        return [
            *(self._micro_batch(some, batch, entering) for some in with_views),
            *(self._micro_batch(some, batch) for some in without),
        ]

    def _groups(self, batch: Batch) -> list[PromptGroup]:
        if not self.share_prompts:
            return [PromptGroup((i,)) for i in range(len(batch.lengths))]
        groups = prompt_groups(batch)
        return [part for g in groups for part in g.cut(batch.lengths, self._capacity)]

    @property
    def _capacity(self) -> int:
        return self.spec.max_tokens_per_mb or DEFAULT_MAX_TOKENS_PER_MB

    def _allocate(
        self, groups: list[PromptGroup], batch: Batch
    ) -> list[list[PromptGroup]]:
        if not groups:
            return []
        spec = MicroBatchSpec.new(
            self.spec,
            max_tokens_per_mb=self._capacity,
            n_mbs=min(self.spec.n_mbs or 1, len(groups)),
            n_mbs_divisor=1,
        )
        sizes = [group.tokens(batch.lengths) for group in groups]
        indices = allocate_balanced_mbs(spec, sizes)
        return [[groups[i] for i in members] for members in indices]

    def _micro_batch(
        self,
        groups: list[PromptGroup],
        batch: Batch,
        entering: Collection[int] | None = None,
    ) -> MicroBatch:
        """`entering` None: it has no views."""
        anchor, view = make_row(groups, batch, self.style), None
        if entering is not None:
            seen = [part for g in groups if (part := g.only(entering))]
            view = make_row(seen, batch, self.style)
        data, needed = batch.packed(anchor.responses)
        places = _view_places(anchor, view, batch.lengths)
        return MicroBatch(data, batch.images, needed, anchor, view, places)


def _view_places(anchor: Row, view: Row | None, lengths: Sequence[int]) -> Tensor:
    places = torch.full_like(anchor.places, -1)
    if view is not None:
        # Both rows hold their responses in the same order.
        entering = torch.tensor([i in view.responses for i in anchor.responses]).bool()
        sizes = torch.tensor([lengths[i] for i in anchor.responses], dtype=torch.long)
        inside = torch.repeat_interleave(entering, sizes).to(places.device)
        places[inside] = view.places
    return places
