"""Held-out shifts of all tasks: other pictures of the same problems.

Not whether they are hard: docs/evidence.md has accuracies.
"""

import random

import numpy as np
import pytest
from PIL import Image

from areal_cppo.config import SHIFTS, TASK_NAMES
from areal_cppo.tasks.drawings import draw_triangle
from areal_cppo.tasks.pictures import TRAINED, Style, draw_style, finish
from areal_cppo.tasks.problems import reading_task

SHIFTED = SHIFTS[1:]


@pytest.fixture(params=TASK_NAMES)
def task(request):
    return reading_task(request.param)


@pytest.mark.parametrize("shift", SHIFTED)
def test_a_shift_changes_the_picture_and_not_the_problem(task, shift):
    for index in range(10):
        plain = task.make_problem(0, index, "held_out")
        shifted = task.make_problem(0, index, "held_out", shift)
        assert (shifted.names, shifted.values) == (plain.names, plain.values)
        changed = np.asarray(shifted.image) != np.asarray(plain.image)
        share = changed.any(-1).mean()
        assert (shifted.colours, shifted.answer) == (plain.colours, plain.answer)
        assert shifted.image.size == plain.image.size
        least = 0.002 if shift in ("font", "clutter") else 0.1  # glyphs are small
        assert share > least
        if shift == "clutter":  # and what is drawn stays in sight
            assert share < 0.15


def test_no_shift_is_the_plain_problem(task):
    plain, same = task.make_problem(0, 3), task.make_problem(0, 3, shift="none")
    assert plain.image.tobytes() == same.image.tobytes()


@pytest.mark.parametrize("shift", SHIFTED)
def test_the_same_picture_each_time_and_another_for_other_problems(task, shift):
    def picture(seed, index):
        return task.make_problem(seed, index, "held_out", shift).image.tobytes()

    assert picture(0, 1) == picture(0, 1)
    assert len({picture(seed, index) for seed in (0, 1) for index in range(5)}) == 10


@pytest.mark.parametrize("shift", ("font", "rotation", "colour", "clutter", "place"))
def test_styles_differ_between_problems(shift):
    styles = {draw_style(shift, random.Random(seed)) for seed in range(60)}
    assert TRAINED not in styles
    assert len(styles) == (3 if shift == "font" else 60)


def test_an_unknown_shift_is_refused(task):
    with pytest.raises(ValueError, match="colour, jpeg, clutter, place, found"):
        task.make_problem(0, 0, "held_out", "weather")


def test_noise_has_the_stated_strength():
    for level in (TRAINED.noise, 24):
        pictures = [
            draw_triangle((1, 2, 3), random.Random(seed), Style(noise=level))
            for seed in range(10)
        ]
        corners = [np.asarray(p)[-8:, :8].astype(float) for p in pictures]
        spread = np.mean([corner.std((0, 1)).mean() for corner in corners])
        assert 0.6 * level < spread < 1.1 * level  # less where white cuts it off


def test_light_and_turn_by_hand():
    image = draw_triangle((1, 2, 3), random.Random(0), Style(noise=0))
    clean = np.asarray(image).astype(float)

    def finished(**style):
        return np.asarray(finish(image, random.Random(0), Style(noise=0, **style)))

    lit = finished(light=(0.5, 1.0, 0.75))
    assert np.array_equal(lit, np.rint(clean * (0.5, 1.0, 0.75)).astype(np.uint8))
    assert np.array_equal(finished(degrees=90.0), np.rot90(np.asarray(image)))


def test_place_by_hand():
    """In the upper right corner of its own background, at half the size."""
    image = draw_triangle((1, 2, 3), random.Random(0), Style(noise=0))
    style = Style(noise=0, place=(0.5, 1.0, 0.0))
    placed = np.asarray(finish(image, random.Random(0), style))
    half = image.resize((42, 42), Image.Resampling.BICUBIC)
    assert np.array_equal(placed[:42, 42:], np.asarray(half))
    assert (placed[42:] == image.getpixel((0, 0))).all()
    assert (placed[:, :42] == image.getpixel((0, 0))).all()


def test_marks_by_hand():
    paper = Image.new("RGB", (84, 112), (200, 220, 240))
    style = Style(noise=0, marks=((0, 42, 84, 42), (21, 21, 1.5)))
    marked = np.asarray(finish(paper, random.Random(0), style))
    mine = (marked == (100, 110, 120)).all(-1)
    assert mine[56].all() and mine[28, 21]  # as high as the picture is in that place
    assert ((marked == (200, 220, 240)).all(-1) | mine).all()
    assert mine.sum() < 84 + 16


def test_compression_is_the_last():
    """Of what is dusted: a picture once compressed hardly changes if it is again."""
    image = draw_triangle((1, 2, 3), random.Random(0), Style(noise=0))
    plain, strong = (
        np.asarray(finish(image, random.Random(0), Style(quality=quality))).astype(int)
        for quality in (95, 8)
    )
    dusted = np.asarray(finish(image, random.Random(0), TRAINED)).astype(int)
    assert abs(plain - dusted).mean() < 3 < 6 < abs(strong - dusted).mean()


def test_layout_and_dust_do_not_depend_on_the_style():
    """So that accuracies can be compared problem by problem."""
    states = set()
    for shift in SHIFTS:
        rng = random.Random(7)
        draw_triangle((1, 2, 3), rng, draw_style(shift, random.Random(0)))
        states.add(rng.getstate())
    assert len(states) == 1
