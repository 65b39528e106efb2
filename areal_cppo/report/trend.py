"""What a metric is at the end of a run, and where it comes from.

A single step's value is mostly noise, so the last steps are averaged and set against
the equally long stretch before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from areal_cppo.report.page import number

SHARE, FEWEST = 10, 5  # the last tenth of the steps, but at least five
# Metrics that count since the start, and ends of names of such.
_COUNTS, _TOTALS = {"version", "seconds", "samples"}, ("_total", "_given_up")
_CLEAR = 2.0  # standard errors of the difference of two means


@dataclass(frozen=True)
class Trend:
    """The mean of the last `steps` values, and of as many before, if there are.

    `moved` is 1, -1 or, where the difference is within two standard errors, 0.
    """

    mean: float
    steps: int
    before: float | None = None
    moved: int = 0

    def words(self, unit: str) -> str:
        """Arrow and words; empty with nothing to set it against."""
        if self.before is None:
            return ""
        way = ("\u2192 no clear change", "\u2191 up", "\u2193 down")[self.moved]
        return f"{way} from {number(self.before, unit)}"


def counts_last(name: str) -> bool:
    """Whether only a metric's last value counts: it grows by nature, or each one is a
    measurement of its own, a validation."""
    return name in _COUNTS or name.endswith(_TOTALS) or name.startswith("validation_")


def last_steps(count: int) -> int:
    """How many of `count` values are averaged."""
    return min(count, max(FEWEST, count // SHARE))


def trend(values: Sequence[float]) -> Trend | None:
    """Of the values in order of step; `None` without any."""
    if not values:
        return None
    steps = last_steps(len(values))
    last, before = values[-steps:], values[-2 * steps : -steps]
    if len(before) < steps:
        return Trend(fmean(last), steps)
    return Trend(fmean(last), steps, fmean(before), _moved(before, last))


def _moved(before: Sequence[float], last: Sequence[float]) -> int:
    difference = fmean(last) - fmean(before)
    error = ((stdev(before) ** 2 + stdev(last) ** 2) / len(last)) ** 0.5
    clear = abs(difference) > max(_CLEAR * error, 1e-9 * abs(fmean(before)))
    return (difference > 0) - (difference < 0) if clear else 0
