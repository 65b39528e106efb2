"""The contact sheet as one picture, PNG or SVG. Sizes are in inches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from areal_cppo.inspection.sheet import KIND_WORDS, Draw, Sheet, Strip
from areal_cppo.report.figure_style import INK, MUTED, STYLE
from areal_cppo.report.page import THEMES

# White on them keeps a contrast of at least 4.5; told apart with any colour vision.
KIND_COLORS = {
    kind: tuple(part / 255 for part in THEMES["light"][color])
    for kind, color in (("positive", "accent"), ("negative", "alarm"))
}

_DPI = 150
_WIDTH, _MARGIN, _GAP = 11.0, 0.35, 0.14
_LABEL = 2.3  # width of the column of names and strengths
_IN_LINE = 5  # draws beside each other
_TALLEST = 3.0  # of a view; _LOWEST of one long and flat
_LOWEST = 0.25
_HEAD, _BAND, _LINE = 0.9, 0.42, 0.185  # title, a kind's heading, a line of text
_RESOLUTION = 450  # pixels of a view's longer side: all that _DPI shows


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Draw the sheet into a file; its ending says of which kind.

    Views share one width, which follows from their shape and number; small pictures
    are enlarged pixel by pixel, large ones reduced smoothly.
    """
    # Pictures keep their own pixels in an SVG.
    with rc_context(STYLE | {"axes.grid": False, "image.composite_image": False}):
        figure = _figure(sheet)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=_DPI, facecolor="white", metadata=metadata)


class _Page:
    """Places things from the top of a figure whose height is known in advance."""

    def __init__(self, height: float):
        self.figure = Figure(figsize=(_WIDTH, height))
        self.axes = self.figure.add_axes(
            (0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0), autoscale_on=False
        )
        self.axes.set_axis_off()
        self.top = _MARGIN

    def text(self, x: float, y: float, words: str, **style) -> None:
        """Words whose upper left corner is `x` from the left, `y` below `top`."""
        look = {"va": "top", "color": INK, "parse_math": False} | style
        self.axes.text(x, self.top + y, words, **look)

    def image(self, x: float, y: float, size: tuple[float, float], image, **edge):
        (width, height), top = size, self.top + y
        extent = (x, x + width, top + height, top)
        self.axes.imshow(image, extent=extent, aspect="auto", interpolation="none")
        edge = {"fill": False, "edgecolor": MUTED, "linewidth": 0.6} | edge
        self.axes.add_patch(Rectangle((x, top), width, height, **edge))

    def box(self, x: float, size: tuple[float, float], color) -> None:
        self.axes.add_patch(Rectangle((x, self.top), *size, color=color, linewidth=0))


def _figure(sheet: Sheet) -> Figure:
    view = _view_size(sheet)
    original = _fitted(sheet.anchor.size, (4.2, 2.6))
    heights = [_strip_height(strip, view) for strip in sheet.strips]
    kinds = list(dict.fromkeys(strip.kind for strip in sheet.strips))
    height = 2 * _MARGIN + _HEAD + _LINE * len(sheet.facts) + original[1]
    height += sum(heights) + len(kinds) * (_BAND + 3 * _GAP)
    page = _Page(height)
    page.text(_MARGIN, 0, sheet.title, fontsize=17, weight="bold")
    for line, fact in enumerate(sheet.facts):
        page.text(_MARGIN, 0.36 + line * _LINE, fact, fontsize=9.5, color=MUTED)
    page.top += _HEAD - 0.3 + _LINE * len(sheet.facts)
    page.text(_MARGIN, 0, "Original", fontsize=11.5, weight="bold")
    page.text(_MARGIN, 0.22, "as the model sees it", fontsize=9.5, color=MUTED)
    page.image(_MARGIN + _LABEL, 0, original, _shown(sheet.anchor))
    page.top += original[1] + 2 * _GAP
    for kind in kinds:
        _kind_heading(page, kind)
        own = [i for i, strip in enumerate(sheet.strips) if strip.kind == kind]
        # A bar beside all strips of a kind, so that they hold together.
        total = sum(heights[i] for i in own)
        page.box(_MARGIN, (0.07, total), KIND_COLORS[kind])
        for i in own:
            _draw_strip(page, sheet.strips[i], view)
            page.top += heights[i]
        page.top += 2 * _GAP
    return page.figure


def _kind_heading(page: _Page, kind: str) -> None:
    sign, name, words = KIND_WORDS[kind]
    page.box(_MARGIN, (_WIDTH - 2 * _MARGIN, _BAND), KIND_COLORS[kind])
    white = {"color": "white", "weight": "bold", "va": "center"}
    page.text(_MARGIN + 0.14, _BAND / 2, sign, fontsize=17, **white)
    page.text(_MARGIN + 0.45, _BAND / 2, f"{name}: {words}", fontsize=12, **white)
    page.top += _BAND + _GAP


def _draw_strip(page: _Page, strip: Strip, view: tuple[float, float]) -> None:
    x = _MARGIN + 0.22
    page.text(x, 0, strip.name, fontsize=11.5, weight="bold", family="monospace")
    for line, words in enumerate(strip.settings):
        page.text(x, 0.25 + line * _LINE, words, fontsize=9.5, color=MUTED)
    for at, draw in enumerate(strip.draws):
        row, column = divmod(at, _IN_LINE)
        left = _MARGIN + _LABEL + column * (view[0] + _GAP)
        down = row * (view[1] + _LINE + _GAP)
        edge = {"linestyle": (0, (3, 3))} if draw.unchanged else {}
        page.image(left, down, view, _shown(draw.image), **edge)
        under = down + view[1] + 0.03
        page.text(left, under, _caption(at, draw), fontsize=8.5, color=MUTED)


def _caption(at: int, draw: Draw) -> str:
    return f"draw {at + 1}: unchanged" if draw.unchanged else f"draw {at + 1}"


def _view_size(sheet: Sheet) -> tuple[float, float]:
    """Width and height of every view on the page."""
    most = max((len(strip.draws) for strip in sheet.strips), default=1)
    columns = min(max(most, 3), _IN_LINE)
    room = _WIDTH - 2 * _MARGIN - _LABEL - (columns - 1) * _GAP
    return _fitted(sheet.anchor.size, (room / columns, _TALLEST))


def _fitted(pixels: tuple[int, int], room: tuple[float, float]) -> tuple[float, float]:
    """A picture's size within `room`, at its own shape unless it would get thin."""
    scale = min(room[0] / pixels[0], room[1] / pixels[1])
    width, height = (max(_LOWEST, side * scale) for side in pixels)
    return width, height


def _strip_height(strip: Strip, view: tuple[float, float]) -> float:
    lines = -(-len(strip.draws) // _IN_LINE)
    drawn = lines * (view[1] + _LINE + _GAP)
    return max(drawn, 0.3 + _LINE * len(strip.settings)) + _GAP / 2


def _shown(image: Image.Image) -> np.ndarray:
    """Pixels at about the resolution of the page."""
    longest = max(image.size)
    if longest > _RESOLUTION:
        image = image.copy()
        image.thumbnail((_RESOLUTION, _RESOLUTION), Image.Resampling.LANCZOS)
    elif longest * 2 <= _RESOLUTION:
        factor = _RESOLUTION // longest
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    return np.asarray(image)
