"""Drawing: size, determinism, variety. Not whether a digit can be read."""

import random

import numpy as np
import pytest

from areal_cppo.tasks.triangles.drawing import IMAGE_SIDE, draw_triangle


def draw(sides=(1, 2, 3), seed=0):
    return np.asarray(draw_triangle(sides, random.Random(seed)))


def test_is_a_small_rgb_picture():
    image = draw_triangle((1, 2, 3), random.Random(0))
    assert image.mode == "RGB"
    assert image.size == (IMAGE_SIDE, IMAGE_SIDE) == (84, 84)


def test_same_seed_same_pixels_whatever_the_global_state():
    random.seed(1)
    np.random.seed(1)
    first = draw()
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(first, draw())


def test_leaves_the_global_random_state_alone():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    draw()
    assert random.random() == expected


def test_fingerprint_is_that_of_every_machine():
    """A changed font, layout or noise would silently change the task."""
    picture = draw((4, 7, 9), seed=5).astype(np.int64)
    assert picture.sum() == 4905128
    assert (picture.ravel() * np.arange(picture.size)).sum() % 1_000_003 == 979568


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


def test_noise_has_the_stated_strength():
    corners = [draw(seed=seed)[-8:, :8].astype(float) for seed in range(30)]
    assert 5 < np.mean([corner.std((0, 1)).mean() for corner in corners]) < 9


@pytest.mark.parametrize("sides", [(0, 1, 2), (1, 2, 10), (1, 2), (1, 2, 3, 4)])
def test_refuses_what_it_cannot_print(sides):
    with pytest.raises(ValueError, match="from 1 to 9"):
        draw(sides)
