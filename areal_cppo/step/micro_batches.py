"""From a padded batch to micro-batches: which responses share a forward pass.

Responses are packed by groups that share a prompt. Groups with a response that enters
the view passes get micro-batches of their own, first, and each of those a second row:
the views' row, of the entering responses only. All ranks have as many micro-batches of
each kind; those that lack some get empty ones.

The loss is AReaL's and sees AReaL's packed dictionaries, in which each response stands
whole; `Passes` tells how those tokens are computed.

Letters: `B` responses of a padded batch, `S` its padded length, `L` tokens of a
micro-batch's responses, `N` those whose distribution is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import (
    DEFAULT_MAX_TOKENS_PER_MB,
    MicroBatchList,
    allocate_balanced_mbs,
)
from torch import Tensor

from areal_cppo.step.packing import IMAGES
from areal_cppo.step.prompts import PromptGroup, prompt_groups
from areal_cppo.step.rows import Batch, Row, RowStyle, make_row

PASSES = "cppo_passes"  # of a micro-batch: its `Passes`
NEEDED = "cppo_needed"  # of a batch: bool [B, S], position t predicts a response token


@dataclass(frozen=True)
class Passes:
    """How a micro-batch is computed.

    Attributes
    ----------
    anchor
        The row of all responses.
    needed
        Int64 `[N]`: those of the L tokens whose distribution the loss asks for.
    view
        The row of the views; `None`: there is none, on all ranks.
    view_places
        Int64 `[L]`: the place of each token in the views' row, -1 where it has none.
    """

    anchor: Row
    needed: Tensor
    view: Row | None
    view_places: Tensor


def needed_tokens(loss_mask: Tensor, *, shifted: bool) -> Tensor:
    """Where a distribution is asked for: bool `[B, S]`, position t predicts t + 1.

    `loss_mask` `[B, S]` is that of the tokens, or already `shifted` to positions that
    predict them, as `compute_advantages` leaves it.
    """
    if shifted:
        return loss_mask.bool()
    needed = torch.roll(loss_mask.bool(), -1, dims=-1)
    needed[:, -1] = False
    return needed


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
    group
        The data-parallel ranks.
    """

    spec: MicroBatchSpec
    style: RowStyle
    share_prompts: bool
    group: dist.ProcessGroup

    def __call__(
        self, data: dict[str, Any], batch: Batch, entering: Collection[int] = ()
    ) -> MicroBatchList:
        """Make the micro-batches; all ranks call it.

        Parameters
        ----------
        data
            AReaL's padded batch, on the device of `batch`, with `NEEDED`.
        batch
            The same, as rows are cut from it.
        entering
            Rows that enter the view passes.
        """
        groups = self._groups(data, batch)
        views = [g for g in groups if g.only(entering)]
        others = [g for g in groups if not g.only(entering)]
        with_views = self._allocate(views, batch.lengths)
        without = self._allocate(others, batch.lengths)
        counts = torch.tensor(
            [len(with_views), len(without)], device=batch.input_ids.device
        )
        dist.all_reduce(counts, op=dist.ReduceOp.MAX, group=self.group)
        most_views, most_others = counts.tolist()
        with_views += [[]] * (most_views - len(with_views))
        total = most_views + most_others
        most_others += -total % self.spec.n_mbs_divisor
        without += [[]] * (most_others - len(without))
        return self._micro_batches(data, batch, with_views, without, entering)

    def _groups(self, data: dict[str, Any], batch: Batch) -> list[PromptGroup]:
        if not self.share_prompts:
            return [PromptGroup((row,)) for row in range(len(batch.lengths))]
        groups = prompt_groups(
            batch.input_ids,
            data[NEEDED],
            batch.image_tokens.bool(),
            batch.lengths,
            batch.sets,
        )
        return [part for g in groups for part in g.cut(batch.lengths, self._capacity)]

    @property
    def _capacity(self) -> int:
        return self.spec.max_tokens_per_mb or DEFAULT_MAX_TOKENS_PER_MB

    def _allocate(
        self, groups: list[PromptGroup], lengths: Sequence[int]
    ) -> list[list[PromptGroup]]:
        if not groups:
            return []
        spec = MicroBatchSpec.new(
            self.spec,
            max_tokens_per_mb=self._capacity,
            n_mbs=min(self.spec.n_mbs or 1, len(groups)),
            n_mbs_divisor=1,
        )
        sizes = [group.tokens(lengths) for group in groups]
        indices = allocate_balanced_mbs(spec, sizes)
        return [[groups[i] for i in members] for members in indices]

    def _micro_batches(
        self,
        data: dict[str, Any],
        batch: Batch,
        with_views: list[list[PromptGroup]],
        without: list[list[PromptGroup]],
        entering: Collection[int],
    ) -> MicroBatchList:
        kinds = [(g, True) for g in with_views] + [(g, False) for g in without]
        passes, mbs = [], []
        for groups, has_views in kinds:
            anchor = make_row(groups, batch, self.style)
            mb = packed(data, anchor.rows, batch.lengths)
            view = None
            if has_views:
                seen = [part for g in groups if (part := g.only(entering))]
                view = make_row(seen, batch, self.style)
            passes.append(_passes(anchor, view, mb, batch.lengths))
            mbs.append(mb | {PASSES: passes[-1]})
        order = [row for item in passes for row in item.anchor.rows]
        inputs = [item.anchor.inputs for item in passes]
        sizes = [row["input_ids"].shape[-1] for row in inputs]
        return MicroBatchList(
            data={},
            mb_spec=self.spec,
            mbs=mbs,
            group_lens=[int(mb["cu_seqlens"][-1]) for mb in mbs],
            forward_indices=order,
            backward_indices=torch.tensor(order, dtype=torch.long).argsort().tolist(),
            padded_mbs=inputs,
            padding_lengths=[0] * len(mbs),
            padded_to_lengths=sizes,
        )


def packed(
    data: dict[str, Any], rows: Sequence[int], lengths: Sequence[int]
) -> dict[str, Any]:
    """Some responses of a padded batch as AReaL's loss takes them: without padding, one
    after the other, with `cu_seqlens` and `max_seqlen`. Images are left out."""
    count, width = data["input_ids"].shape
    device = data["input_ids"].device
    sizes = [lengths[row] for row in rows]
    pieces = [torch.arange(row * width, row * width + lengths[row]) for row in rows]
    index = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.long)
    index = index.to(device)
    mb: dict[str, Any] = {}
    for key, value in data.items():
        if key in (IMAGES, "attention_mask"):
            continue
        if torch.is_tensor(value) and value.shape[:2] == (count, width):
            value = value.flatten(0, 1).index_select(0, index)
        mb[key] = value
    bounds = torch.tensor([0, *sizes], dtype=torch.int32, device=device).cumsum(0)
    return mb | {
        "cu_seqlens": bounds.to(torch.int32),
        "max_seqlen": max(sizes, default=0),
    }


def _passes(
    anchor: Row, view: Row | None, mb: dict[str, Any], lengths: Sequence[int]
) -> Passes:
    needed = mb.pop(NEEDED).nonzero().flatten()
    places = torch.full_like(anchor.places, -1)
    if view is not None:
        # Both rows hold their responses in the same order.
        entering = torch.tensor([row in view.rows for row in anchor.rows]).bool()
        sizes = torch.tensor([lengths[row] for row in anchor.rows], dtype=torch.long)
        inside = torch.repeat_interleave(entering, sizes).to(places.device)
        places[inside] = view.places
    return Passes(anchor, needed, view, places)
