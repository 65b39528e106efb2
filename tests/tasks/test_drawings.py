"""Drawings: size, determinism, variety; a chart holds its answer, and not by place.

Charts are read from their pixels (`chart_reader.py`). Whether a model can read either
is in test_checkpoints.py.
"""

import random
from collections import Counter

import numpy as np
import pytest

from areal_cppo.tasks.drawings import draw_chart, draw_triangle
from areal_cppo.tasks.problems import CHARTS
from tests.tasks.chart_reader import read_chart

BARS = ("A", "B", "C")


def draw(values=(1, 2, 3), seed=0, drawing=draw_triangle):
    return np.asarray(drawing(values, random.Random(seed)))


@pytest.fixture(params=[draw_triangle, draw_chart])
def drawing(request):
    return request.param


def test_is_a_small_rgb_picture(drawing):
    image = drawing((1, 2, 3), random.Random(0))
    assert (image.mode, image.size) == ("RGB", (84, 84))


def test_same_seed_same_pixels_whatever_the_global_state(drawing):
    """Which is left as it was."""
    random.seed(1)
    np.random.seed(1)
    first = draw(drawing=drawing)
    random.seed(2)
    np.random.seed(2)
    expected = random.random()
    random.seed(2)
    assert np.array_equal(first, draw(drawing=drawing))
    assert random.random() == expected


@pytest.mark.parametrize(
    ("drawn", "total", "weighted"),
    [(draw_triangle, 4905128, 979568), (draw_chart, 4167326, 305687)],
)
def test_fingerprint_is_that_of_every_machine(drawn, total, weighted):
    """A changed font, layout or noise would silently change the task."""
    picture = draw((4, 7, 9), seed=5, drawing=drawn).astype(np.int64)
    assert picture.sum() == total
    assert (picture.ravel() * np.arange(picture.size)).sum() % 1_000_003 == weighted


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 10), (1, 2), (1, 2, 3, 4)])
def test_refuses_what_it_cannot_draw(drawing, values):
    with pytest.raises(ValueError, match="three (heights|side lengths) from 1 to 9"):
        draw(values, drawing=drawing)


def test_other_seeds_give_other_pictures_of_the_same_triangle():
    pictures = [draw(seed=seed) for seed in range(20)]
    assert len({picture.tobytes() for picture in pictures}) == 20
    backgrounds = {tuple(picture[:6, :6].mean((0, 1)).round()) for picture in pictures}
    assert len(backgrounds) == 20


@pytest.mark.parametrize("place", range(3))
def test_a_side_changes_the_picture_near_its_digit_only(place):
    sides = [1, 2, 3]
    before = draw(tuple(sides)).astype(int)
    sides[place] = 8
    after = draw(tuple(sides)).astype(int)
    rows, columns = np.nonzero((before != after).any(-1))
    assert 10 < len(rows) < 400
    assert np.ptp(rows) < 20 and np.ptp(columns) < 20


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_a_chart_is_read_exactly_from_its_pixels(start):
    for index in range(start, start + 50):
        problem = CHARTS.make_problem(0, index, "held_out")
        assert read_chart(problem.image) == (problem.names, problem.values), index


def test_all_heights_are_read_in_all_places():
    for seed in range(54):
        heights = (1 + seed % 9, 9 - seed % 9, 1 + (seed + seed // 9) % 9)
        assert read_chart(draw_chart(heights, random.Random(seed))) == (BARS, heights)


def test_a_bars_top_in_pixels_does_not_tell_its_height():
    """Whoever knows for each row which height ends there most often errs."""
    tops: dict[int, Counter[int]] = {}
    for seed in range(320):
        height = 2 + seed % 8
        picture, lower = (
            draw((h, 9, 9), seed, draw_chart) for h in (height, height - 1)
        )
        row = int(np.flatnonzero((picture != lower).any((1, 2))).min())
        tops.setdefault(row, Counter())[height] += 1
    right = sum(max(heights.values()) for heights in tops.values())
    assert right / 320 < 0.7
