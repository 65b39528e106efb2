"""Reads a chart from its pixels alone, by plain image processing. Not a test itself.

It knows what a chart looks like (light paper, a dark base line, bars that stand on it,
lines to count, a letter under each bar), but nothing that `draw_chart` drew at random.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BASE_ROWS = slice(54, 72)  # where the base line may be
_PATCH = (14, 18)  # pixels, rows and columns, in which a letter is looked for
_CONTRAST = 20  # levels; half the least that a bar differs from the paper by
_LINE_CONTRAST = 15  # the same for lines, seen over many pixels


def read_chart(image: Image.Image) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Letters and heights of the three bars, from left to right."""
    pixels = np.asarray(image).astype(float)
    paper = np.median(pixels[:3].reshape(-1, 3), 0)  # nothing is ever drawn there
    base = _base_row(pixels, paper)
    bars = _runs(_differs(pixels[base - 2 : base].mean(0), paper), least=6)
    assert len(bars) == 3, bars
    lines = _lines(pixels, paper, base, bars)
    assert len(lines) == 9, lines
    heights = tuple(
        sum(row >= _top(pixels, paper, base, bar) for row in lines) for bar in bars
    )
    return tuple(_letter(pixels, base, bar) for bar in bars), heights


def _differs(colours: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """Which colours `[n, 3]` are not that of the paper."""
    return np.abs(colours - paper).max(-1) > _CONTRAST


def _runs(flags: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Begin and end (excluded) of stretches of true flags at least so long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(int(a), int(b)) for a, b in pairs if b - a >= least]


def _base_row(pixels: np.ndarray, paper: np.ndarray) -> int:
    """The row that is dark from the axis to the right end, between the bars too."""
    darkness = (paper - pixels[_BASE_ROWS, 18:76]).mean(-1)
    return _BASE_ROWS.start + int(np.percentile(darkness, 15, axis=1).argmax())


def _lines(
    pixels: np.ndarray, paper: np.ndarray, base: int, bars: list[tuple[int, int]]
) -> list[int]:
    """Rows of the lines above the base, seen where no bar stands."""
    free = np.zeros(pixels.shape[1], bool)
    free[bars[0][0] : bars[2][1] + 2] = True
    for begin, end in bars:
        free[max(begin - 1, 0) : end + 1] = False
    darkness = (paper - pixels[:base, free]).mean((1, 2))
    return [begin for begin, _ in _runs(darkness > _LINE_CONTRAST, least=1)]


def _top(pixels: np.ndarray, paper: np.ndarray, base: int, bar: tuple[int, int]) -> int:
    """The highest row up to which a bar's colour reaches from its foot."""
    inside = pixels[:base, bar[0] + 1 : bar[1] - 1].mean(1)
    colour = inside[base - 2 : base].mean(0)
    near = np.abs(inside - colour).sum(-1) < np.abs(inside - paper).sum(-1)
    row = base
    while row and near[row - 1]:
        row -= 1
    return row


def _letter(pixels: np.ndarray, base: int, bar: tuple[int, int]) -> str:
    """The letter whose picture fits best under a bar, wherever it is placed there."""
    rows, columns = _PATCH
    left = (bar[0] + bar[1] - columns) // 2
    left = min(max(left, 0), pixels.shape[1] - columns)
    patch = pixels[base + 2 : base + 2 + rows, left : left + columns].mean(-1)
    return max("ABC", key=lambda name: float((_templates(name) @ patch.ravel()).max()))


@cache
def _templates(name: str) -> np.ndarray:
    """A letter in all places of a patch, of mean 0 and length 1: `[places, pixels]`."""
    font = ImageFont.load_default(size=12).font_variant(
        layout_engine=ImageFont.Layout.BASIC
    )
    rows, columns = _PATCH
    drawn = []
    for y in range(5, rows - 3):
        for x in range(5, columns - 4):
            image = Image.new("L", (columns, rows), 255)
            ImageDraw.Draw(image).text((x, y), name, fill=0, font=font, anchor="mm")
            drawn.append(np.asarray(image, float).ravel())
    centred = np.stack(drawn) - np.mean(drawn, 1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)
