"""Charts: that the picture holds the answer, and does not give it away by place.

Shown by reading charts from their pixels (`chart_reader.py`). Whether a model can is in
test_charts_checkpoint.py.
"""

import random
from collections import Counter

import numpy as np
import pytest

from areal_cppo.tasks.charts.drawing import draw_chart
from areal_cppo.tasks.charts.task import CHARTS
from tests.tasks.chart_reader import read_chart

BARS = ("A", "B", "C")


def draw(heights=(1, 2, 3), seed=0):
    return np.asarray(draw_chart(heights, random.Random(seed)))


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_a_chart_is_read_exactly_from_its_pixels(start):
    for index in range(start, start + 50):
        problem = CHARTS.make_problem(0, index, "held_out")
        assert read_chart(problem.image) == (problem.names, problem.values), index


def test_all_heights_are_read_in_all_places():
    for seed in range(54):
        heights = (1 + seed % 9, 9 - seed % 9, 1 + (seed + seed // 9) % 9)
        assert read_chart(draw_chart(heights, random.Random(seed))) == (BARS, heights)


def test_is_a_small_rgb_picture():
    image = draw_chart((1, 2, 3), random.Random(0))
    assert (image.mode, image.size) == ("RGB", (84, 84))


def test_same_seed_same_pixels_whatever_the_global_state():
    random.seed(1)
    first = draw()
    random.seed(2)
    expected = random.random()
    random.seed(2)
    assert np.array_equal(first, draw())
    assert random.random() == expected


def test_fingerprint_is_that_of_every_machine():
    """A changed font, layout or noise would silently change the task."""
    picture = draw((4, 7, 9), seed=5).astype(np.int64)
    assert picture.sum() == 4167326
    assert (picture.ravel() * np.arange(picture.size)).sum() % 1_000_003 == 305687


def test_a_bars_top_in_pixels_does_not_tell_its_height():
    """Whoever knows for each row which height ends there most often errs."""
    tops: dict[int, Counter[int]] = {}
    for seed in range(320):
        height = 2 + seed % 8
        picture, lower = (draw((h, 9, 9), seed) for h in (height, height - 1))
        row = int(np.flatnonzero((picture != lower).any((1, 2))).min())
        tops.setdefault(row, Counter())[height] += 1
    right = sum(max(heights.values()) for heights in tops.values())
    assert right / 320 < 0.7


@pytest.mark.parametrize("heights", [(0, 1, 2), (1, 2, 10), (1, 2), (1, 2, 3, 4)])
def test_refuses_what_it_cannot_draw(heights):
    with pytest.raises(ValueError, match="three heights from 1 to 9"):
        draw_chart(heights, random.Random(0))
