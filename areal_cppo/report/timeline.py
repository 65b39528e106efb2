"""Interval arithmetic: when generation and training were busy, and both at once.

An interval is a sequence that begins with start and end, in seconds; whatever
follows (a phase name) is ignored. Intervals are half-open: touching ones merge.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Interval = tuple[float, float]


@dataclass(frozen=True)
class Timeline:
    """When a run was busy, in seconds since training began."""

    generation: list[Interval] = field(default_factory=list)
    training: list[tuple[float, float, str]] = field(default_factory=list)
    weights: list[Interval] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.generation or self.training or self.weights)

    @property
    def end(self) -> float:
        """The last moment of which anything is known."""
        spans = [*self.generation, *self.training, *self.weights]
        return max((span[1] for span in spans), default=0.0)


def union(intervals: Iterable[Sequence[Any]]) -> list[Interval]:
    """The same moments as sorted, disjoint, non-touching intervals."""
    merged: list[Interval] = []
    for start, end in sorted((span[0], span[1]) for span in intervals):
        if end < start:
            raise ValueError(
                f"expected an interval's end at or after its start, found "
                f"[{start}, {end}]; give [start, end] in seconds"
            )
        if end == start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def intersect(a: Iterable[Sequence[Any]], b: Iterable[Sequence[Any]]) -> list[Interval]:
    """The moments in both, as sorted, disjoint intervals."""
    left, right = union(a), union(b)
    both: list[Interval] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            both.append((start, end))
        if left[i][1] <= right[j][1]:
            i += 1
        else:
            j += 1
    return both


def busy_seconds(intervals: Iterable[Sequence[Any]]) -> float:
    """How long at least one of the intervals was open."""
    return float(sum(end - start for start, end in union(intervals)))


def overlap_share(
    generation: Iterable[Sequence[Any]],
    training: Iterable[Sequence[Any]],
    window: Interval,
) -> float:
    """Share of the window's wall time in which both sides were busy."""
    start, end = window
    if not start < end:
        raise ValueError(
            f"expected a window of positive length, found [{start}, {end}]; "
            "pass the start and end of training in seconds"
        )
    both = intersect(generation, training)
    return busy_seconds(intersect(both, [window])) / (end - start)


def in_flight(intervals: Iterable[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """How many intervals are open from each moment of change until the next.

    Returns `times` (sorted, distinct) and `counts`, of equal length; the last
    count is 0.
    """
    change: dict[float, int] = defaultdict(int)
    for span in intervals:
        change[span[0]] += 1
        change[span[1]] -= 1
    times = np.array(sorted(change), dtype=float)
    counts = np.cumsum([change[moment] for moment in times], dtype=int)
    return times, counts


def mean_in_flight(
    intervals: Iterable[Sequence[Any]], edges: Sequence[float]
) -> np.ndarray:
    """Time-weighted mean number of open intervals between consecutive edges."""
    times, counts = in_flight(intervals)
    edges = np.asarray(edges, dtype=float)
    if not len(times):
        return np.zeros(len(edges) - 1)
    area = np.concatenate([[0.0], np.cumsum(counts[:-1] * np.diff(times))])
    return np.diff(np.interp(edges, times, area)) / np.diff(edges)
