"""What a run's watch remembers of the metrics: the first and the latest values."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from math import isfinite
from statistics import median
from typing import Any

WINDOW = 10  # steps: their median and quartiles shrug off two odd steps
LASTING = 5  # steps in a row that show something by themselves: half a window


class History:
    """The first window of each metric, and the latest one.

    Values that a record lacks, or that are not finite, are passed over: a metric that
    few steps have comes to a window all the same.

    Attributes
    ----------
    fewest
        Values that a window needs.
    steps
        Records so far.
    """

    def __init__(self):
        self.fewest, self.steps = WINDOW, 0
        self._seen: dict[str, int] = defaultdict(int)
        self._first: dict[str, list[float]] = defaultdict(list)
        self._last: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, record: dict[str, Any]) -> None:
        """Remember a line of `metrics.jsonl`."""
        self.steps += 1
        for name, value in record.items():
            if isinstance(value, int | float) and isfinite(value):
                self._seen[name] += 1
                self._last[name].append(float(value))
                if len(self._first[name]) < WINDOW:
                    self._first[name].append(float(value))

    def last(self, name: str, fewest: int | None = None) -> list[float]:
        """The latest window, oldest first; empty with fewer than `fewest` values."""
        values = list(self._last[name])
        fewest = self.fewest if fewest is None else min(fewest, self.fewest)
        return values if len(values) >= fewest else []

    def median(self, name: str) -> float | None:
        """Of the latest window; None without one."""
        values = self.last(name)
        return median(values) if values else None

    def window(self, name: str) -> str:
        """What the latest median is of, in words."""
        steps = len(self.last(name))
        return "one step" if steps == 1 else f"median of {steps} steps"

    def before(self, name: str) -> float | None:
        """The median of the run's first window, which shares no step with the latest
        one; None without both."""
        apart = self._seen[name] >= 2 * WINDOW
        return median(self._first[name]) if apart else None


Check = Callable[[dict[str, Any]], str | None]


class Once:
    """Runs checks, each until it has said its line."""

    def __init__(self, checks: dict[str, Check]):
        self._checks = checks

    def lines(self, record: dict[str, Any]) -> list[str]:
        """What the checks say of a record."""
        found = {name: check(record) for name, check in self._checks.items()}
        said = {name: line for name, line in found.items() if line is not None}
        self._checks = {n: c for n, c in self._checks.items() if n not in said}
        return list(said.values())
