"""Records values at tokens within an update, with AReaL's stats tracker."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.metrics import Metric


class TokenRecord:
    """Records values at tokens of a micro-batch, by metric, within an update.

    Parameters
    ----------
    tokens
        Bool `[T]`, gives the shape; may be empty.

    Attributes
    ----------
    everywhere : Tensor
        Bool `[T + 1]`: the tokens, and one that is false. The tracker refuses an empty
        mask, and a rank's micro-batch may hold no response.
    """

    def __init__(self, tokens: Tensor):
        self.everywhere = and_none(tokens)

    def at(self, index: Tensor, values: Tensor) -> Tensor:
        """Values put at their positions: fp32 `[T + 1]`, 0 elsewhere."""
        row = torch.zeros_like(self.everywhere, dtype=torch.float32)
        row[index] = values.detach().float()
        return row

    def mask(self, index: Tensor, values: Tensor | None = None) -> Tensor:
        """Bool `[T + 1]`: true at these positions, or where their values are."""
        if values is None:
            values = torch.ones_like(index)
        return self.at(index, values).bool()


def and_none(mask: Tensor) -> Tensor:
    """A mask with one more entry, false."""
    return torch.nn.functional.pad(mask, (0, 1))


def record_counts(masks: Mapping[Metric | str, Tensor]) -> None:
    """Record how many are true, of all ranks; by its key what is no metric."""
    stats_tracker.denominator(**{_key(name): mask for name, mask in masks.items()})


def record_means(
    over: Metric | str,
    values: Mapping[Metric | str, Tensor],
    reduce: ReduceType = ReduceType.AVG,
) -> None:
    """Record means over what a count has marked; absent where it has marked nothing."""
    stats_tracker.stat(
        **{_key(name): value for name, value in values.items()},
        denominator=_key(over),
        reduce_type=reduce,
    )


def _key(name: Metric | str) -> str:
    return name if isinstance(name, str) else name.local
