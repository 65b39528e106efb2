"""The data-parallel ranks of an actor, and what they find out together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """All ranks call the same methods in the same order, or they wait for each other.

    Attributes
    ----------
    group
        The ranks.
    device
        Of this rank's model; results are there.
    """

    group: dist.ProcessGroup
    device: torch.device

    @property
    def count(self) -> int:
        """How many there are."""
        return dist.get_world_size(self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the ranks, of any shape."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """Elementwise maximum over the ranks, of any shape."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def any(self, flag: Tensor) -> bool:
        """Whether a bool without dimensions holds on some rank."""
        return bool(self.largest(flag.to(torch.int32)))

    def _reduced(self, values: Tensor, operation: dist.ReduceOp) -> Tensor:
        values = values.detach().to(self.device, copy=True)
        dist.all_reduce(values, op=operation, group=self.group)
        return values
