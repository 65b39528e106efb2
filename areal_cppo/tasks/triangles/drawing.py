"""Draws the picture of a triangle whose sides carry their lengths."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from areal_cppo.tasks.canvas import (
    BACKGROUND,
    IMAGE_SIDE,
    INK,
    TRAINED,
    Style,
    draw_colour,
    finish,
    font,
)

_CORNERS = {"A": (42, 14), "B": (16, 62), "C": (68, 62)}  # before jitter, in pixels
_CORNER_JITTER = 4.0  # pixels, each way
_LETTER_DISTANCE = 6.0  # pixels from a corner to its letter, outwards
_LETTER_SIZE = 9  # points
_DIGIT_DISTANCE = (7.0, 10.0)  # pixels from a side's middle to its digit, outwards
_DIGIT_SIZE = (15, 19)  # points


def _outwards(
    point: tuple[float, float], centre: tuple[float, float], distance: float
) -> tuple[float, float]:
    """The point `distance` pixels further away from `centre` than `point` is."""
    dx, dy = point[0] - centre[0], point[1] - centre[1]
    length = math.sqrt(dx * dx + dy * dy)
    return (point[0] + dx / length * distance, point[1] + dy / length * distance)


def draw_triangle(
    sides: tuple[int, int, int], rng: random.Random, style: Style = TRAINED
) -> Image.Image:
    """Draw triangle ABC with the lengths of AB, BC and CA printed at their middles.

    Corners, colours, digit sizes and digit places vary; a grey noise covers all. The
    shape of the triangle says nothing about the lengths.

    Parameters
    ----------
    sides
        Lengths of AB, BC and CA, digits from 1 to 9.
    rng
        Source of everything random; left advanced.
    style
        Font, noise, turn and light.

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
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), draw_colour(rng, BACKGROUND))
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
    ink = draw_colour(rng, INK)
    pen.polygon([a, b, c], outline=ink, width=1)
    for (p, q), side in zip(((a, b), (b, c), (c, a)), sides, strict=True):
        middle = ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2)
        pen.text(
            _outwards(middle, centre, rng.uniform(*_DIGIT_DISTANCE)),
            str(side),
            font=font(rng.randint(*_DIGIT_SIZE), style.font),
            fill=draw_colour(rng, INK),
            anchor="mm",
        )
    for name, corner in corners.items():
        pen.text(
            _outwards(corner, centre, _LETTER_DISTANCE),
            name,
            font=font(_LETTER_SIZE, style.font),
            fill=ink,
            anchor="mm",
        )
    return finish(image, rng, style)
