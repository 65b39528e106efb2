"""Takes the information out of pictures, for the warm-up's share of blind ones.

A model that never saw an uninformative picture reads digits off one with confidence;
after a warm-up with some (the label kept) its entropy rises there, as it does in a
large model. These are plain byte operations, for speed and for a warm-up that
does not change when the training views do.
"""

from __future__ import annotations

import random

import numpy as np

from areal_cppo.tasks.canvas import IMAGE_SIDE
from areal_cppo.tasks.pixels import GRID, PATCH

_COVERED_SHARE = 0.8  # of the patches
_N_NOISE_PATCHES = 50
_SMALL, _LARGE = (0.05, 0.15), (0.15, 0.30)  # of the picture's side
_CROP = (0.25, 0.40)  # of the picture's side
_KINDS = ("blank", "covered_mean", "covered_black", "noise", "dense_noise", "crop")


def _mean_colour(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(-1, 3).mean(0).astype(np.uint8)


def _cover(picture: np.ndarray, colour: np.ndarray | int, rng: random.Random) -> None:
    for place in rng.sample(range(GRID * GRID), round(_COVERED_SHARE * GRID * GRID)):
        y, x = divmod(place, GRID)
        rows, columns = slice(y * PATCH, (y + 1) * PATCH), slice(x * PATCH, None)
        picture[rows, columns][:, :PATCH] = colour


def _add_noise(
    picture: np.ndarray, bounds: tuple[float, float], rng: random.Random
) -> None:
    for _ in range(_N_NOISE_PATCHES):
        width, height = (round(rng.uniform(*bounds) * IMAGE_SIDE) for _ in range(2))
        x, y = rng.randint(0, IMAGE_SIDE - width), rng.randint(0, IMAGE_SIDE - height)
        drawn = np.frombuffer(rng.randbytes(width * height * 3), np.uint8)
        picture[y : y + height, x : x + width] = drawn.reshape(height, width, 3)


def _zoom(picture: np.ndarray, rng: random.Random) -> None:
    side = round(rng.uniform(*_CROP) * IMAGE_SIDE)
    x, y = rng.randint(0, IMAGE_SIDE - side), rng.randint(0, IMAGE_SIDE - side)
    index = np.arange(IMAGE_SIDE) * side // IMAGE_SIDE  # nearest neighbour
    picture[:] = picture[y + index][:, x + index]


def make_uninformative(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """A copy of a picture that shows little or nothing, one of six ways at random.

    Parameters
    ----------
    picture
        uint8 `[84, 84, 3]`; left as it is.
    rng
        Source of everything random; left advanced.

    Returns
    -------
    ndarray
        uint8 `[84, 84, 3]`.
    """
    changed = picture.copy()
    kind = rng.choice(_KINDS)
    if kind == "blank":
        changed[:] = _mean_colour(picture)
    elif kind == "covered_mean":
        _cover(changed, _mean_colour(picture), rng)
    elif kind == "covered_black":
        _cover(changed, 0, rng)
    elif kind == "noise":
        _add_noise(changed, _SMALL, rng)
    elif kind == "dense_noise":
        _add_noise(changed, _LARGE, rng)
    else:
        _zoom(changed, rng)
    return changed
