"""Statistics of a training batch: how stale, how correct, how long it is."""

from __future__ import annotations

from typing import Any

import torch
from areal.utils import stats_tracker

# Fixed, because ranks reduce each statistic together: all must have the same keys.
STALENESS_BINS = 16  # the last one holds everything at or beyond it
LENGTH_BINS = 16  # of equal width, up to the limit of new tokens; likewise


def record_batch(
    trajectories: list[dict[str, Any]],
    version: int,
    correct_reward: float,
    longest: int,
) -> None:
    """Record staleness, accuracy and lengths with AReaL's stats tracker, under `cppo/`.

    Parameters
    ----------
    trajectories
        After `compute_advantages`: `loss_mask` is shifted by one, `versions` isn't, and
        the padding of `versions` is 0, so it is read under the mask only.
    version
        Current policy version.
    correct_reward
        A response is correct when its reward exceeds this.
    longest
        Most tokens of a response.
    """
    width = longest / LENGTH_BINS
    with stats_tracker.scope("cppo"):
        stats_tracker.scalar(length_bin_tokens=width)
        for trajectory in trajectories:
            response = trajectory["loss_mask"].bool()
            staleness = version - torch.roll(trajectory["versions"], -1, dims=-1)
            rewards = trajectory["rewards"]
            lengths = response.sum(-1)
            place = ((lengths - 1) / width).long().clamp(0, LENGTH_BINS - 1)
            stats_tracker.denominator(
                response_tokens=response,
                responses=torch.ones_like(rewards, dtype=torch.bool),
                interrupted_responses=_several_versions(staleness, response),
                **{
                    f"staleness_tokens/{k:02d}": response & in_bin
                    for k, in_bin in enumerate(_bins(staleness))
                },
                **{f"response_lengths/{k:02d}": place == k for k in range(LENGTH_BINS)},
            )
            stats_tracker.stat(
                staleness=staleness.float(), denominator="response_tokens"
            )
            stats_tracker.stat(
                reward=rewards.float(),
                correct=(rewards > correct_reward).float(),
                response_length=lengths.float(),
                denominator="responses",
                reduce_type=stats_tracker.ReduceType.AVG,
            )


def _several_versions(staleness: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Which responses were interrupted by a weight update and went on: bool `[rows]`.

    Both arguments `[rows, length]`.
    """
    stalest = staleness.masked_fill(~response, staleness.min()).amax(-1)
    freshest = staleness.masked_fill(~response, staleness.max()).amin(-1)
    return (stalest > freshest) & response.any(-1)


def _bins(staleness: torch.Tensor) -> list[torch.Tensor]:
    last = STALENESS_BINS - 1
    clamped = staleness.clamp(0, last)
    return [clamped == k for k in range(STALENESS_BINS)]
