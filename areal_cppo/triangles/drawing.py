"""Draws the picture of a triangle whose sides carry their lengths.

Everything random comes from the `random.Random` that the caller hands in, and the
pixels are the same on every machine with the same Pillow: the font is the one inside
Pillow, laid out by its own basic engine (not by whatever text shaper the machine has),
and the noise is made of integers only.
"""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIDE = 84  # pixels: 6 x 6 patches of 14, merged 2 x 2 into 9 image tokens

_CORNERS = {"A": (42, 14), "B": (16, 62), "C": (68, 62)}  # before jitter, in pixels
_CORNER_JITTER = 4.0  # pixels, each way
_LETTER_DISTANCE = 6.0  # pixels from a corner to its letter, outwards
_LETTER_SIZE = 9  # points
_DIGIT_DISTANCE = (7.0, 10.0)  # pixels from a side's middle to its digit, outwards
_DIGIT_SIZE = (15, 19)  # points
_BACKGROUND = (215, 255)  # range of each colour channel: light
_INK = (0, 90)  # range of each colour channel: dark
_NOISE = 8  # standard deviation of the grey noise, in levels of 255

_N_BYTES = 4  # uniform bytes summed for one noise value: nearly normal
_BYTE_SUM_MEAN = 510  # of four uniform bytes
_BYTE_SUM_STD = 148  # of four uniform bytes, rounded


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _colour(rng: random.Random, bounds: tuple[int, int]) -> tuple[int, int, int]:
    return (rng.randint(*bounds), rng.randint(*bounds), rng.randint(*bounds))


def _outwards(
    point: tuple[float, float], centre: tuple[float, float], distance: float
) -> tuple[float, float]:
    """The point `distance` pixels further away from `centre` than `point` is."""
    dx, dy = point[0] - centre[0], point[1] - centre[1]
    length = math.sqrt(dx * dx + dy * dy)
    return (point[0] + dx / length * distance, point[1] + dy / length * distance)


def _grey_noise(rng: random.Random) -> np.ndarray:
    """Noise of `_NOISE` levels, the same in all channels: int16 `[side, side, 1]`."""
    shape = (_N_BYTES, IMAGE_SIDE, IMAGE_SIDE, 1)
    drawn = np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    centred = drawn.astype(np.int16).sum(0, dtype=np.int16) - _BYTE_SUM_MEAN
    return centred * _NOISE // _BYTE_SUM_STD


def draw_triangle(sides: tuple[int, int, int], rng: random.Random) -> Image.Image:
    """Draw triangle ABC with the lengths of AB, BC and CA printed at their middles.

    Corners, colours, digit sizes and digit places vary; a grey noise covers all. The
    shape of the triangle says nothing about the lengths.

    Parameters
    ----------
    sides
        Lengths of AB, BC and CA, digits from 1 to 9.
    rng
        Source of everything random; left advanced.

    Returns
    -------
    Image
        RGB, 84 x 84 pixels.

    Raises
    ------
    ValueError
        If there are not three sides, or one is not a digit from 1 to 9.
    """
    if len(sides) != 3 or not all(1 <= side <= 9 for side in sides):
        raise ValueError(
            f"expected three side lengths from 1 to 9, got {tuple(sides)}; "
            "a side is printed as one digit"
        )
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), _colour(rng, _BACKGROUND))
    pen = ImageDraw.Draw(image)
    corners = {
        name: (
            x + rng.uniform(-_CORNER_JITTER, _CORNER_JITTER),
            y + rng.uniform(-_CORNER_JITTER, _CORNER_JITTER),
        )
        for name, (x, y) in _CORNERS.items()
    }
    a, b, c = corners.values()
    centre = ((a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3)
    ink = _colour(rng, _INK)
    pen.polygon([a, b, c], outline=ink, width=1)
    for (p, q), side in zip(((a, b), (b, c), (c, a)), sides, strict=True):
        middle = ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2)
        pen.text(
            _outwards(middle, centre, rng.uniform(*_DIGIT_DISTANCE)),
            str(side),
            font=_font(rng.randint(*_DIGIT_SIZE)),
            fill=_colour(rng, _INK),
            anchor="mm",
        )
    for name, corner in corners.items():
        pen.text(
            _outwards(corner, centre, _LETTER_DISTANCE),
            name,
            font=_font(_LETTER_SIZE),
            fill=ink,
            anchor="mm",
        )
    noisy = np.asarray(image, np.int16) + _grey_noise(rng)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
