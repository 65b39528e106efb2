"""Means over seeds and paired differences, with 95 % confidence intervals.

Seeds differ in problems, sampling and views; all arms of a seed share them, and all
runs share the held-out problems. So an arm is compared with another seed by seed, and
the interval is that of the mean of the differences (Student's t, n - 1 degrees of
freedom). It says how well the seeds that there are tell what other seeds would give,
for these held-out problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values; without an interval where n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval.

    Raises
    ------
    ValueError
        There are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("values: expected at least one, found none; pass some")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(student.ppf((1 + _LEVEL) / 2, n - 1)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(
    arm: Mapping[int, float], reference: Mapping[int, float]
) -> Interval | None:
    """Mean of `arm - reference` over the seeds that both have; None if they share
    none."""
    shared = sorted(arm.keys() & reference.keys())
    if not shared:
        return None
    return mean_interval([arm[seed] - reference[seed] for seed in shared])
