"""What a step records with AReaL's stats tracker, which reduces it over ranks.

All ranks record the same statistics, since they reduce each together. Of a batch: how
stale, how correct, how long it is. Of a step: what the tracker can't reduce, quantiles
and seconds. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from typing import Any

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.config.blocks import REWARD_PARTS
from areal_cppo.metrics import PARTS, Metric
from areal_cppo.step.batch import IMAGES
from areal_cppo.step.ranks import Ranks

# Fixed, because all ranks must have the same keys.
STALENESS_BINS = 16  # the last one holds everything at or beyond it
LENGTH_BINS = 16  # of equal width, up to the limit of new tokens; likewise
_GAIN_BINS = 1000  # of the gain, which is in [0, 1]: quantiles are right to 0.001
QUANTILES = (0.1, 0.5, 0.9)

METRICS = (
    Metric(
        "reward",
        "Reward",
        "",
        "Mean reward of the step's responses.",
        key="cppo/reward",
    ),
    Metric(
        "accuracy",
        "Training accuracy",
        "share",
        "Share of the step's sampled responses with a correct answer.",
        key="cppo/correct",
    ),
    Metric(
        "response_tokens",
        "Response length",
        "tokens",
        "Mean length of a response; a steep rise or fall often comes before a collapse "
        "of the reward.",
        key="cppo/response_length",
    ),
    Metric(
        "cut_off_responses",
        "Cut-off responses",
        "share",
        "Share of the step's responses that are as long as actor.max_new_tokens "
        "allows: what was still to come, an answer or the end, is missing.",
        key="cppo/cut_off",
    ),
    Metric(
        "equal_reward_groups",
        "Groups without a signal",
        "share",
        "Share of the step's groups whose responses all have the same reward: compared "
        "with each other they teach nothing.",
        key="cppo/equal_rewards",
    ),
    Metric(
        "equal_reward_groups_zero",
        "Groups without a reward",
        "share",
        "Share of the step's groups whose responses all have the reward 0: too hard, "
        "or judged by what they can't meet.",
        key="cppo/equal_rewards_zero",
    ),
    Metric(
        "equal_reward_groups_correct",
        "Groups that are all correct",
        "share",
        "Share of the step's groups whose responses are all correct, with the same "
        "reward: too easy by now.",
        key="cppo/equal_rewards_correct",
    ),
    Metric(
        "interrupted_responses",
        "Interrupted responses",
        "responses",
        "Responses of the step with tokens of more than one policy version: a weight "
        "update interrupted them, and they went on.",
        key="cppo/interrupted_responses",
    ),
    Metric(
        "staleness_mean",
        "Staleness, mean",
        "versions",
        "How many policy versions ago the trained-on tokens were sampled, on average.",
        key="cppo/staleness/avg",
    ),
    Metric(
        "staleness_max",
        "Staleness, largest",
        "versions",
        "The same for the stalest token of the step.",
        key="cppo/staleness/max",
    ),
    Metric(
        "seconds_perturb",
        "Drawing views",
        "s",
        "Part of the update: waiting for views of the images, which are made beside "
        "other work, mean of the ranks.",
        key="cppo/seconds_perturb",
    ),
    Metric(
        "seconds_negative_view",
        "Negative view",
        "s",
        "Part of the update: the negative view's forward passes, mean of the ranks.",
        key="cppo/seconds_negative_view",
    ),
    Metric(
        "seconds_positive_view",
        "Positive view",
        "s",
        "The same of the positive view.",
        key="cppo/seconds_positive_view",
    ),
    Metric(
        "seconds_anchor",
        "Anchor",
        "s",
        "Part of the update: the anchor's forward passes, comparison with the views "
        "included, mean of the ranks.",
        key="cppo/seconds_anchor",
    ),
    Metric(
        "seconds_backward",
        "Backward",
        "s",
        "Part of the update: the backward passes, mean of the ranks.",
        key="cppo/seconds_backward",
    ),
    Metric(
        "seconds_optimizer",
        "Optimiser",
        "s",
        "Part of the update: the optimiser's steps, mean of the ranks.",
        key="cppo/seconds_optimizer",
    ),
    Metric(
        "seconds_inside",
        "Update, in the trainers",
        "s",
        "Part of the update: from the batch's arrival in the trainers to the end, mean "
        "of the ranks; the rest is the hand-over.",
        key="cppo/seconds_inside",
    ),
)


def record_batch(
    trajectories: list[dict[str, Any]],
    version: int,
    correct_reward: float,
    longest: int,
) -> None:
    """Record staleness, accuracy, rewards within groups and lengths, under `cppo/`.

    Parameters
    ----------
    trajectories
        An item per group, after `compute_advantages`: `loss_mask` is shifted by one,
        `versions` isn't, and the padding of `versions` is 0, so it is read under the
        mask only.
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
            binned = staleness.clamp(0, STALENESS_BINS - 1)
            rewards = trajectory["rewards"]
            lengths = response.sum(-1)
            place = ((lengths - 1) / width).long().clamp(0, LENGTH_BINS - 1)
            stats_tracker.denominator(
                response_tokens=response,
                responses=torch.ones_like(rewards, dtype=torch.bool),
                interrupted_responses=_several_versions(staleness, response),
                **{
                    f"staleness_tokens/{k:02d}": response & (binned == k)
                    for k in range(STALENESS_BINS)
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
                cut_off=(lengths >= longest).float(),
                denominator="responses",
                reduce_type=ReduceType.AVG,
            )
            _record_group(rewards, correct_reward)
            for own in trajectory.get(IMAGES, ()):
                parts = own.get(REWARD_PARTS, {}).items()
                stats_tracker.scalar(**{PARTS + name: value for name, value in parts})


def _record_group(rewards: Tensor, correct_reward: float) -> None:
    """Whether its responses differ in reward; one alone is no group. `[B]`, `B` > 0."""
    first = rewards[:1]
    equal = (rewards == first).all(0, keepdim=True)
    stats_tracker.denominator(groups=torch.full_like(equal, len(rewards) > 1))
    stats_tracker.stat(
        equal_rewards=equal.float(),
        equal_rewards_zero=(equal & (first == 0)).float(),
        equal_rewards_correct=(equal & (first > correct_reward)).float(),
        denominator="groups",
        reduce_type=ReduceType.AVG,
    )


def _several_versions(staleness: Tensor, response: Tensor) -> Tensor:
    """Which responses were interrupted by a weight update and went on: bool `[B]`.

    Both arguments `[B, S]`.
    """
    stalest = staleness.masked_fill(~response, staleness.min()).amax(-1)
    freshest = staleness.masked_fill(~response, staleness.max()).amin(-1)
    return (stalest > freshest) & response.any(-1)


class Meter:
    """Counts one step of one rank: time, size of view passes, distribution of gains.

    The tracker averages and sums. A quantile over all ranks needs the distribution, so
    the gains are counted in bins; and the time of a pass is wanted per step, not per
    call.
    """

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._gains = torch.zeros(_GAIN_BINS, dtype=torch.long)
        self._skipped = 0

    @contextmanager
    def time(self, name: str):
        """Add the time of a block, which all ranks enter or none, to `seconds_{name}`.

        On a GPU by its own clock, without waiting for it.
        """
        start = _now()
        try:
            yield
        finally:
            self._spans[name].append((start, _now()))

    def gains(self, gain: Tensor) -> None:
        """Count entropy gains, `[G]` in [0, 1]; those that are not finite are not."""
        gain = gain[torch.isfinite(gain)].float().cpu()
        counts = torch.histc(gain, bins=_GAIN_BINS, min=0.0, max=1.0)
        self._gains += counts.long()

    def skipped(self) -> None:
        """A micro-batch was left out of CPL, on all ranks alike."""
        self._skipped += 1

    def flush(self, ranks: Ranks, *, cpl: bool = True) -> None:
        """Record the step with AReaL's stats tracker and start anew; all ranks call it.

        Under `cppo/`: `seconds_*` of what was timed (mean over ranks) and, with `cpl`,
        `gain_p*` (over all ranks; absent without gated tokens) and
        `skipped_micro_batches`.
        """
        gains = ranks.sum(self._gains)
        seconds = {
            f"seconds_{name}": sum(_between(*span) for span in spans)
            for name, spans in self._spans.items()
        }
        with stats_tracker.scope("cppo"):
            stats_tracker.scalar(**seconds)
            if cpl:
                stats_tracker.scalar(skipped_micro_batches=self._skipped)
            if gains.sum() > 0:
                stats_tracker.scalar(
                    **{f"gain_p{q * 100:.0f}": _quantile(gains, q) for q in QUANTILES}
                )
        self._clear()


def _now() -> float | torch.cuda.Event:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, end: Any) -> float:
    """Seconds between two of `_now`."""
    if isinstance(end, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _quantile(counts: Tensor, q: float) -> float:
    """The middle of the bin of [0, 1] in which the share `q` is reached."""
    reached = counts.cumsum(0) >= q * counts.sum()
    return (int(reached.int().argmax()) + 0.5) / len(counts)
