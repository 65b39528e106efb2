"""Draws what problems are about: a triangle with its side lengths, or a bar chart.

A triangle's sides carry their lengths as digits; its shape says nothing about them.

Of a chart no height is printed, only the line of 5 has its number. Where the axis
stands, how far its lines are apart, and the bars' widths and colours vary, so that a
height has to be read against the lines: the row of pixels in which a bar ends tells it
in half of the cases only.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from areal_cppo.tasks.pictures import (
    BACKGROUND,
    IMAGE_SIDE,
    INK,
    TRAINED,
    Style,
    darker,
    draw_colour,
    finish,
    font,
)
from areal_cppo.tasks.responses import Names, Values

# Of triangles.
SIDES: Names = ("AB", "BC", "CA")
_CORNERS = {"A": (42, 14), "B": (16, 62), "C": (68, 62)}  # before jitter, in pixels
_CORNER_JITTER = 4.0  # pixels, each way
_LETTER_DISTANCE = 6.0  # pixels from a corner to its letter, outwards
_LETTER_SIZE = 9  # points
_DIGIT_DISTANCE = (7.0, 10.0)  # pixels from a side's middle to its digit, outwards
_DIGIT_SIZE = (15, 19)  # points

# Of charts.
BARS: Names = ("A", "B", "C")  # from left to right
_N_LINES = 9  # the largest height
_NUMBERED = 5  # the line with its number
_LEFT, _RIGHT = (11.0, 15.0), (77.0, 82.0)  # pixels: the axis, and the lines' end
_BASE = (58.0, 68.0)  # pixels from the top: height 0
_UNIT = (4.0, 6.0)  # pixels between two lines
_WIDTH = (0.45, 0.75)  # of a bar, as a share of its third of the chart
_SWAY = 0.08  # how far a bar stands from the middle of its third, as a share of it
_FILL = (20, 170)  # range of each colour channel of a bar
_LINE, _NUMBERED_LINE = 30, 75  # levels by which lines are darker than the background
_NAME_SIZE, _NAME_DISTANCE = 12, 9.0  # points; pixels from the base
_NUMBER_SIZE, _NUMBER_DISTANCE = 9, 5.0  # points; pixels from the axis


def _outwards(
    point: tuple[float, float], centre: tuple[float, float], distance: float
) -> tuple[float, float]:
    """The point `distance` pixels further away from `centre` than `point` is."""
    dx, dy = point[0] - centre[0], point[1] - centre[1]
    length = math.sqrt(dx * dx + dy * dy)
    return (point[0] + dx / length * distance, point[1] + dy / length * distance)


def draw_triangle(
    sides: Values, rng: random.Random, style: Style = TRAINED
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
        place = _outwards(middle, centre, rng.uniform(*_DIGIT_DISTANCE))
        digit = font(rng.randint(*_DIGIT_SIZE), style.font)
        pen.text(place, str(side), draw_colour(rng, INK), digit, anchor="mm")
    letter = font(_LETTER_SIZE, style.font)
    for name, corner in corners.items():
        place = _outwards(corner, centre, _LETTER_DISTANCE)
        pen.text(place, name, ink, letter, anchor="mm")
    return finish(image, rng, style)


def draw_chart(
    heights: Values, rng: random.Random, style: Style = TRAINED
) -> Image.Image:
    """Draw a chart of the bars A, B and C, from left to right.

    Parameters
    ----------
    heights
        Of A, B and C, from 1 to 9.
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
        If there are not three heights, or one is not from 1 to 9.
    """
    if len(heights) != 3 or not all(1 <= height <= _N_LINES for height in heights):
        raise ValueError(
            f"expected three heights from 1 to {_N_LINES}, got {tuple(heights)}; the "
            "axis ends there"
        )
    background, ink = draw_colour(rng, BACKGROUND), draw_colour(rng, INK)
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), background)
    pen = ImageDraw.Draw(image)
    left, right = round(rng.uniform(*_LEFT)), round(rng.uniform(*_RIGHT))
    base, unit = rng.uniform(*_BASE), rng.uniform(*_UNIT)
    rows = [round(base - unit * height) for height in range(_N_LINES + 1)]
    for height, row in enumerate(rows):
        levels = _NUMBERED_LINE if height == _NUMBERED else _LINE
        pen.line([(left, row), (right, row)], fill=darker(background, levels))
    place = (left - _NUMBER_DISTANCE, rows[_NUMBERED])
    pen.text(place, str(_NUMBERED), ink, font(_NUMBER_SIZE, style.font), anchor="mm")
    letter = font(_NAME_SIZE, style.font)
    third = (right - left) / 3
    for i, (name, height) in enumerate(zip(BARS, heights, strict=True)):
        middle = left + third * (i + 0.5 + rng.uniform(-_SWAY, _SWAY))
        half = third * rng.uniform(*_WIDTH) / 2
        corners = [round(middle - half), rows[height], round(middle + half), rows[0]]
        pen.rectangle(corners, fill=draw_colour(rng, _FILL))
        pen.text((middle, rows[0] + _NAME_DISTANCE), name, ink, letter, anchor="mm")
    pen.line([(left, rows[0]), (right, rows[0])], fill=ink)
    pen.line([(left, rows[0]), (left, rows[-1])], fill=ink)
    return finish(image, rng, style)
