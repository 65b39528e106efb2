"""Means over seeds, and differences seed by seed, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd
from scipy.stats import sem
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


def mean_interval(values: Sequence[float] | pd.Series) -> Interval:
    """Mean and its 95 % interval.

    Raises
    ------
    ValueError
        There are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("values: expected at least one, found none; pass some")
    mean = fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(student.ppf((1 + _LEVEL) / 2, n - 1) * sem(values))
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(arm: pd.Series, reference: pd.Series) -> Interval | None:
    """Mean of `arm - reference` over the seeds, their index, that both have; None if
    they share none."""
    differences = (arm - reference).dropna()
    return mean_interval(differences) if len(differences) else None
