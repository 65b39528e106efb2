"""Draws bar charts whose bars have no names: a legend says which colour is which.

Four bars stand on an axis with lines, in any order; the legend names three of their
colours A, B and C. The picture's size, the legend's place, axis,
distances, widths and shades vary. Heights are read against the lines, as in
`drawings.draw_chart`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from areal_cppo.tasks.pictures import (
    BACKGROUND,
    INK,
    PATCH,
    TRAINED,
    Colour,
    Style,
    darker,
    draw_colour,
    finish,
    font,
)
from areal_cppo.tasks.responses import Colours, Values

SHADES: dict[str, Colour] = {
    "red": (205, 40, 40),
    "orange": (240, 150, 40),
    "green": (40, 150, 60),
    "blue": (45, 70, 205),
    "purple": (140, 50, 165),
}
SIZES = ((6, 6), (8, 6), (6, 8), (8, 8))  # in patches: columns, rows
NAMED: tuple[str, str, str] = ("A", "B", "C")

Place = tuple[float, float]  # across, down

_N_LINES = 9  # the largest height
_NUMBERED = 5  # the line with its number
_SIDE, _BAND = 22, 15  # pixels that a legend takes: beside the chart, above or below it
_NUMBER_ROOM = 10.0  # pixels between the chart's left edge and its axis
_MARGIN = (2.0, 5.0)  # pixels around the chart
_FOOT = (4.0, 8.0)  # pixels between the axis and the chart's lower edge
_UNIT = (5.5, 6.5)  # pixels between two lines
_WIDTH = (0.6, 0.8)  # of a bar, as a share of its quarter of the chart
_TINT = 12  # levels by which a channel of a shade may differ, each way
_LINE, _NUMBERED_LINE = 30, 75  # levels by which lines are darker than the background
_CELL = 28  # pixels, the side of an image token: an entry stands within one
_SWATCH = 8  # pixels, the side
_NAME_SIZE, _NUMBER_SIZE = 13, 9  # points
_SWAY = 1.5  # pixels from an entry's place, each way


def draw_legend_chart(
    values: Values, colours: Colours, rng: random.Random, style: Style = TRAINED
) -> tuple[Image.Image, tuple[Place, ...]]:
    """Draw a chart of three named values and one that is not asked for.

    Parameters
    ----------
    values, colours
        Of A, B and C: heights from 1 to 9, and keys of `SHADES`.
    rng
        Source of everything random; left advanced.
    style
        Font, noise, turn, light and what else a shift changes.

    Returns
    -------
    tuple
        The picture, RGB, of one of `SIZES` times 14 pixels; and in pixels, before any
        turn or move, where A, B and C stand in the legend, and where their bars end.

    Raises
    ------
    ValueError
        If a height is not from 1 to 9, or colours are not three different ones.
    """
    if not all(1 <= value <= _N_LINES for value in values):
        raise ValueError(
            f"expected heights from 1 to {_N_LINES}, got {tuple(values)}; the axis "
            "ends there"
        )
    if len(set(colours)) != 3 or not set(colours) <= set(SHADES):
        raise ValueError(
            f"expected three colours out of {', '.join(SHADES)}, got {colours}"
        )
    columns, rows = rng.choice(SIZES)
    width, height = columns * PATCH, rows * PATCH
    background, ink = draw_colour(rng, BACKGROUND), draw_colour(rng, INK)
    image = Image.new("RGB", (width, height), background)
    pen = ImageDraw.Draw(image)
    other = rng.choice([name for name in SHADES if name not in colours])
    shown = dict(zip(colours, values, strict=True)) | {other: rng.randint(1, _N_LINES)}
    shades = {name: _tinted(SHADES[name], rng) for name in shown}
    upright = columns > rows or (columns == rows and rng.random() < 0.5)
    first = rng.random() < 0.5  # the legend is left or above
    named = [(name, shades[c]) for name, c in zip(NAMED, colours, strict=True)]
    letter = font(_NAME_SIZE, style.font)
    left, top, right, bottom = 0, 0, width, height
    along = height if upright else width
    spots = [_CELL * (i + 0.5) for i in range(along // _CELL)]
    spots = sorted(rng.sample(spots, 3))
    if upright:
        middle = _SIDE / 2 if first else width - _SIDE / 2
        left, right = (_SIDE, right) if first else (0, width - _SIDE)
        places = [(middle, spot) for spot in spots]
    else:
        middle = _BAND / 2 if first else height - _BAND / 2
        top, bottom = (_BAND, bottom) if first else (0, height - _BAND)
        places = [(spot, middle) for spot in spots]
    for (name, shade), (x, y) in zip(named, places, strict=True):
        x, y = x + rng.uniform(-_SWAY, _SWAY), y + rng.uniform(-_SWAY, _SWAY)
        _rectangle(pen, x - _SWATCH - 1, y - _SWATCH / 2, x - 1, y + _SWATCH / 2, shade)
        pen.text((x + 5, y), name, ink, letter, anchor="mm")
    number = font(_NUMBER_SIZE, style.font)
    bars = [(shown[name], shades[name]) for name in rng.sample(sorted(shown), 4)]
    box = (left, top, right, bottom)
    ends = _draw_bars(pen, box, bars, rng, (background, ink, number))
    ends = [ends[bars.index((value, shades[c]))] for value, c in zip(values, colours)]
    return finish(image, rng, style), (*places, *ends)


def _draw_bars(pen, box, bars: Sequence[tuple[int, Colour]], rng, paper) -> list[Place]:
    """Axis, lines and bars, within a box; where the bars end."""
    background, ink, number = paper
    left, top, right, bottom = box
    left = round(left + _NUMBER_ROOM + rng.uniform(0, _MARGIN[0]))
    right = round(right - rng.uniform(*_MARGIN))
    unit = rng.uniform(*_UNIT)
    base = bottom - rng.uniform(*_FOOT)
    rows = [round(base - unit * height) for height in range(_N_LINES + 1)]
    for height, row in enumerate(rows):
        levels = _NUMBERED_LINE if height == _NUMBERED else _LINE
        pen.line([(left, row), (right, row)], fill=darker(background, levels))
    place = (left - _NUMBER_ROOM / 2, rows[_NUMBERED])
    pen.text(place, str(_NUMBERED), ink, number, anchor="mm")
    part = (right - left) / len(bars)
    ends = []
    for i, (height, shade) in enumerate(bars):
        middle = left + part * (i + 0.5)
        ends.append((middle, rows[height]))
        half = part * rng.uniform(*_WIDTH) / 2
        _rectangle(pen, middle - half, rows[height], middle + half, rows[0], shade)
    pen.line([(left, rows[0]), (right, rows[0])], fill=ink)
    pen.line([(left, rows[0]), (left, rows[-1])], fill=ink)
    return ends


def _rectangle(pen, left, top, right, bottom, shade: Colour) -> None:
    pen.rectangle([round(left), round(top), round(right), round(bottom)], fill=shade)


def _tinted(shade: Colour, rng: random.Random) -> Colour:
    red, green, blue = (c + rng.randint(-_TINT, _TINT) for c in shade)
    return (red, green, blue)
