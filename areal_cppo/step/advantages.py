"""Reward normalisation for groups of unequal size.

AReaL cuts a batch into slices of `group_size`. When a response was refused its group is
smaller: every later slice then mixes two groups, and the rows left over at the end are
divided by a standard deviation of zero (plus 1e-5: advantages of 1e5). Here the groups
are given, and AReaL's own normalisation is applied to each.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from areal.api.cli_args import NormConfig
from areal.utils.data import Normalization


def normalize_groups(
    x: torch.Tensor,
    loss_mask: torch.Tensor | None = None,
    *,
    sizes: list[int],
    config: NormConfig,
) -> torch.Tensor:
    """AReaL's `Normalization`, with groups of the given sizes.

    Parameters
    ----------
    x
        Float `[B, ...]`, groups one after the other.
    loss_mask
        Which elements count, shape of `x`; all by default.
    sizes
        Sequences per group; their sum is B.
    config
        Levels of mean and standard deviation; its `group_size` is not used.

    Returns
    -------
    Tensor
        fp32, shape of `x`.
    """
    centred = _apply(x, loss_mask, sizes, replace(config, std_level=None))
    return _apply(centred, loss_mask, sizes, replace(config, mean_level=None))


def _apply(x, loss_mask, sizes: list[int], config: NormConfig) -> torch.Tensor:
    """One of the two steps: centre (`std_level` is None) or scale."""
    if "group" not in (config.mean_level, config.std_level):
        return Normalization(config)(x, loss_mask)
    masks = [None] * len(sizes) if loss_mask is None else loss_mask.split(sizes)
    return torch.cat(
        [
            Normalization(replace(config, group_size=len(group)))(group, mask)
            for group, mask in zip(x.split(sizes), masks, strict=True)
        ]
    )
