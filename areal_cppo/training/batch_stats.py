"""Statistics of a training batch: how stale it is, how much of it is correct."""

from __future__ import annotations

from typing import Any

import torch
from areal.utils import stats_tracker

# Fixed, because ranks reduce each statistic together: all must have the same keys.
STALENESS_BINS = 16  # the last one holds everything at or beyond it


def record_batch(
    trajectories: list[dict[str, Any]], version: int, correct_reward: float
) -> None:
    """Record staleness and accuracy with AReaL's stats tracker, under `cppo/`.

    Parameters
    ----------
    trajectories
        After `compute_advantages`: `loss_mask` is shifted by one, `versions` isn't, and
        the padding of `versions` is 0, so it is read under the mask only.
    version
        Current policy version.
    correct_reward
        A response is correct when its reward exceeds this.
    """
    with stats_tracker.scope("cppo"):
        for trajectory in trajectories:
            response = trajectory["loss_mask"].bool()
            staleness = version - torch.roll(trajectory["versions"], -1, dims=-1)
            rewards = trajectory["rewards"]
            stats_tracker.denominator(
                response_tokens=response,
                responses=torch.ones_like(rewards, dtype=torch.bool),
                **{
                    f"staleness_tokens/{k:02d}": response & in_bin
                    for k, in_bin in enumerate(_bins(staleness))
                },
            )
            stats_tracker.stat(
                staleness=staleness.float(), denominator="response_tokens"
            )
            stats_tracker.stat(
                reward=rewards.float(),
                correct=(rewards > correct_reward).float(),
                response_length=response.sum(-1).float(),
                denominator="responses",
                reduce_type=stats_tracker.ReduceType.AVG,
            )


def _bins(staleness: torch.Tensor) -> list[torch.Tensor]:
    last = STALENESS_BINS - 1
    clamped = staleness.clamp(0, last)
    return [clamped == k for k in range(STALENESS_BINS)]
