"""Draws a bar chart: three bars over their letters, an axis, and lines to count.

No height is printed, only the line of 5 has its number. Where the axis stands, how far
its lines are apart, and the bars' widths and colours vary, so that a height has to be
read against the lines: the row of pixels in which a bar ends tells it in half of the
cases only.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from areal_cppo.tasks.canvas import (
    BACKGROUND,
    IMAGE_SIDE,
    INK,
    TRAINED,
    Colour,
    Style,
    draw_colour,
    finish,
    font,
)
from areal_cppo.tasks.responses import Values

BARS = ("A", "B", "C")  # from left to right
N_LINES = 9  # the largest height
_NUMBERED = 5  # the line with its number

_LEFT, _RIGHT = (11.0, 15.0), (77.0, 82.0)  # pixels: the axis, and the lines' end
_BASE = (58.0, 68.0)  # pixels from the top: height 0
_UNIT = (4.0, 6.0)  # pixels between two lines
_WIDTH = (0.45, 0.75)  # of a bar, as a share of its third of the chart
_SWAY = 0.08  # how far a bar stands from the middle of its third, as a share of it
_FILL = (20, 170)  # range of each colour channel of a bar
_LINE, _NUMBERED_LINE = 30, 75  # levels by which lines are darker than the background
_LETTER_SIZE, _LETTER_DISTANCE = 12, 9.0  # points; pixels from the base
_NUMBER_SIZE, _NUMBER_DISTANCE = 9, 5.0  # points; pixels from the axis


def _darker(colour: Colour, levels: int) -> Colour:
    red, green, blue = (channel - levels for channel in colour)
    return (red, green, blue)


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
    if len(heights) != 3 or not all(1 <= height <= N_LINES for height in heights):
        raise ValueError(
            f"expected three heights from 1 to {N_LINES}, got {tuple(heights)}; the "
            "axis ends there"
        )
    background, ink = draw_colour(rng, BACKGROUND), draw_colour(rng, INK)
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), background)
    pen = ImageDraw.Draw(image)
    left, right = round(rng.uniform(*_LEFT)), round(rng.uniform(*_RIGHT))
    base, unit = rng.uniform(*_BASE), rng.uniform(*_UNIT)
    rows = [round(base - unit * height) for height in range(N_LINES + 1)]
    for height, row in enumerate(rows):
        levels = _NUMBERED_LINE if height == _NUMBERED else _LINE
        pen.line([(left, row), (right, row)], fill=_darker(background, levels))
    pen.text(
        (left - _NUMBER_DISTANCE, rows[_NUMBERED]),
        str(_NUMBERED),
        font=font(_NUMBER_SIZE, style.font),
        fill=ink,
        anchor="mm",
    )
    third = (right - left) / 3
    for place, (name, height) in enumerate(zip(BARS, heights, strict=True)):
        middle = left + third * (place + 0.5 + rng.uniform(-_SWAY, _SWAY))
        half = third * rng.uniform(*_WIDTH) / 2
        corners = [round(middle - half), rows[height], round(middle + half), rows[0]]
        pen.rectangle(corners, fill=draw_colour(rng, _FILL))
        pen.text(
            (middle, rows[0] + _LETTER_DISTANCE),
            name,
            font=font(_LETTER_SIZE, style.font),
            fill=ink,
            anchor="mm",
        )
    pen.line([(left, rows[0]), (right, rows[0])], fill=ink)
    pen.line([(left, rows[0]), (left, rows[-1])], fill=ink)
    return finish(image, rng, style)
