"""From an update's groups to mini-batches: which take an optimiser step together.

AReaL deals out responses by their lengths, so that those of a group end up in several
mini-batches, each of which computes their prompt and encodes its images again. Here
whole groups are dealt out; one is cut only where there are fewer than mini-batches.
"""

from __future__ import annotations

from typing import Any

import torch
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import DEFAULT_MAX_TOKENS_PER_MB, allocate_balanced_mbs

from areal_cppo.step.ranks import Ranks

Group = dict[str, Any]  # AReaL's item: tensors `[n, ...]` and lists of n responses


def minibatches(
    groups: list[Group], wanted: int, ranks: Ranks, *, share_prompts: bool
) -> list[list[Group]]:
    """Deal out a rank's groups; all ranks call it, and get equally many mini-batches.

    Their numbers of groups differ by at most one, their tokens by at most the largest
    group's. The largest come first, on all ranks: so they wait for each other least.

    Parameters
    ----------
    groups
        After `compute_advantages`: an item a group, of whatever size.
    wanted
        Mini-batches; there are fewer where a rank has fewer responses than that.
    ranks
        The data-parallel ranks.
    share_prompts
        Whether a group's prompt is computed once.
    """
    if wanted == 1:
        return [groups]
    responses = torch.tensor(sum(map(_responses, groups)))
    count = min(wanted, -int(ranks.largest(-responses)))
    parts = list(groups)
    while len(parts) < count:
        sizes = [_tokens(p, share_prompts) * (_responses(p) > 1) for p in parts]
        parts += _halves(parts.pop(sizes.index(max(sizes))))
    sizes = [_tokens(part, share_prompts) for part in parts]
    dealt = _deal(sizes, count)
    dealt.sort(key=lambda members: -sum(sizes[i] for i in members))
    return [[parts[i] for i in members] for members in dealt]


def _responses(group: Group) -> int:
    return len(group["loss_mask"])


def _tokens(group: Group, share_prompts: bool) -> int:
    """Those that a pass over it computes."""
    whole = group["attention_mask"].sum(-1)
    own = group["loss_mask"].count_nonzero(-1)
    if not share_prompts:
        return int(whole.sum())
    return int((whole - own).max() + own.sum())


def _halves(group: Group) -> list[Group]:
    """Its responses in two parts, of about as many tokens."""
    lengths = group["loss_mask"].count_nonzero(-1).tolist()
    return [_some(group, rows) for rows in _deal(lengths, 2)]


def _some(group: Group, rows: list[int]) -> Group:
    count = _responses(group)

    def part(value: Any) -> Any:
        if isinstance(value, list) and len(value) == count:
            return [value[i] for i in rows]
        if torch.is_tensor(value) and value.ndim and len(value) == count:
            return value[rows]
        return value

    return {key: part(value) for key, value in group.items()}


def _deal(sizes: list[int], count: int) -> list[list[int]]:
    """AReaL's way with responses: the largest first, each to one that has fewest and,
    among those, the least."""
    spec = MicroBatchSpec(n_mbs=count, max_tokens_per_mb=DEFAULT_MAX_TOKENS_PER_MB)
    return [[int(i) for i in members] for members in allocate_balanced_mbs(spec, sizes)]
