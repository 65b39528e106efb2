"""Interval arithmetic against a naive reference on a grid of whole seconds.

With whole-second ends, each second is wholly inside or outside an interval, so
sampling at the half seconds is exact.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.report.timeline import (
    busy_seconds,
    in_flight,
    intersect,
    mean_in_flight,
    overlap_share,
    union,
)

# A shared machine may be slow; that is no defect of the code.
relaxed = settings(deadline=None, max_examples=60)

SECONDS = 24
span = st.tuples(st.integers(0, SECONDS), st.integers(0, SECONDS)).map(sorted)
spans = st.lists(span, max_size=12)


def sampled(intervals) -> np.ndarray:
    """How many intervals contain each half second."""
    moments = np.arange(SECONDS) + 0.5
    counts = [sum(s <= m < e for s, e in intervals) for m in moments]
    return np.array(counts, dtype=int)


@relaxed
@given(spans)
def test_union(intervals):
    merged = union(intervals)
    assert (sampled(merged) == (sampled(intervals) > 0)).all()
    assert all(start < end for start, end in merged)
    gaps = zip(merged, merged[1:], strict=False)
    assert all(first[1] < second[0] for first, second in gaps)


@relaxed
@given(spans, spans)
def test_intersect(a, b):
    both = intersect(a, b)
    assert (sampled(both) == ((sampled(a) > 0) & (sampled(b) > 0))).all()
    assert both == intersect(b, a) == union(both)


@relaxed
@given(spans)
def test_busy_seconds(intervals):
    assert busy_seconds(intervals) == (sampled(intervals) > 0).sum()


@relaxed
@given(spans, spans, span.filter(lambda window: window[0] < window[1]))
def test_overlap_share(generation, training, window):
    inside = slice(*window)
    both = (sampled(generation) > 0) & (sampled(training) > 0)
    expected = both[inside].mean()
    assert overlap_share(generation, training, window) == pytest.approx(expected)


@relaxed
@given(spans)
def test_in_flight(intervals):
    times, counts = in_flight(intervals)
    for moment, expected in zip(
        np.arange(SECONDS) + 0.5, sampled(intervals), strict=True
    ):
        at = np.searchsorted(times, moment, side="right") - 1
        assert (counts[at] if at >= 0 else 0) == expected


@relaxed
@given(spans)
def test_mean_in_flight(intervals):
    means = mean_in_flight(intervals, range(0, SECONDS + 1, 4))
    assert means == pytest.approx(sampled(intervals).reshape(-1, 4).mean(axis=1))


def test_overlap_share_by_hand():
    # Generation 0-6 in two overlapping requests, training 4-8 in two phases: both
    # busy from 4 to 6 of the 10 seconds.
    generation = [[0, 4.5], [3, 6]]
    training = [[4, 5, "update"], [5, 8, "save"]]
    assert overlap_share(generation, training, (0, 10)) == pytest.approx(0.2)


def test_phase_names_do_not_matter():
    assert union([[1, 2, "b"], [1, 2, None], [2, 3, "a"]]) == [(1, 3)]


def test_reversed_interval_is_refused():
    with pytest.raises(ValueError, match=r"found \[3, 1\]"):
        union([[3, 1]])


def test_empty_window_is_refused():
    with pytest.raises(ValueError, match="positive length"):
        overlap_share([], [], (2, 2))
