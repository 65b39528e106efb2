"""What AReaL's stats tracker cannot reduce: quantiles, and seconds a step.

The tracker averages and sums. A quantile over all ranks needs the distribution, so the
gains are counted in bins; and the time of a pass is wanted per step, not per call.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager

import torch
import torch.distributed as dist
from areal.utils import stats_tracker

_BINS = 1000  # of the gain, which is in [0, 1]: quantiles are right to 0.001
QUANTILES = (0.1, 0.5, 0.9)
# Recorded every step, whatever ran: ranks reduce each statistic together.
TIMED = ("perturb", "negative_view", "positive_view")


class Meter:
    """Counts one step of one rank: time, size of view passes, distribution of gains."""

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._gains = torch.zeros(_BINS, dtype=torch.long)
        self._skipped = 0

    @contextmanager
    def time(self, name: str):
        """Add the time of a block; `name` is one of `TIMED`.

        Host time: on a GPU, work that is still queued counts where it is waited for.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def view_pass(
        self, scope: str, tokens: int, patches: int, device: torch.device
    ) -> None:
        """One forward pass of a view over `tokens` (padding included) and `patches`.

        Recorded under `scope`. `device` is that of the model: AReaL reduces statistics
        where they are.
        """
        sizes = {f"{scope}/view_tokens": tokens, f"{scope}/view_patches": patches}
        stats_tracker.denominator(
            **{
                name: torch.ones(size, dtype=torch.bool, device=device)
                for name, size in sizes.items()
            }
        )

    def gains(self, gain: torch.Tensor) -> None:
        """Count entropy gains, `[G]` in [0, 1]; those that are not finite are not."""
        gain = gain[torch.isfinite(gain)].float().cpu()
        counts = torch.histc(gain, bins=_BINS, min=0.0, max=1.0)
        self._gains += counts.long()

    def skipped(self) -> None:
        """A micro-batch was left out of CPL, on all ranks alike."""
        self._skipped += 1

    def flush(
        self, group: dist.ProcessGroup, device: torch.device, *, cpl: bool = True
    ) -> None:
        """Record the step with AReaL's stats tracker and start anew; all ranks call it.

        Under `cppo/`: `seconds_*` (mean over ranks) and, with `cpl`, `gain_p*` (over
        all ranks; absent without gated tokens) and `skipped_micro_batches`.
        """
        gains = self._gains.to(device)
        dist.all_reduce(gains, group=group)
        with stats_tracker.scope("cppo"):
            stats_tracker.scalar(
                **{f"seconds_{name}": self._seconds[name] for name in TIMED}
            )
            if cpl:
                stats_tracker.scalar(skipped_micro_batches=self._skipped)
            if gains.sum() > 0:
                stats_tracker.scalar(
                    **{f"gain_p{q * 100:.0f}": _quantile(gains, q) for q in QUANTILES}
                )
        self._clear()


def _quantile(counts: torch.Tensor, q: float) -> float:
    """The middle of the bin of [0, 1] in which the share `q` is reached."""
    reached = counts.cumsum(0) >= q * counts.sum()
    return (int(reached.int().argmax()) + 0.5) / len(counts)
