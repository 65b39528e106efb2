"""A chart of a page: one figure drawn wide and narrow, and what is read off it.

Narrow screens show the narrow one, where the letters of the wide one would shrink. With
the page's script a chart tells its values where somebody points at it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from areal_cppo.report import figure_style as fs
from areal_cppo.report.page import number

NARROW = 4.0  # inches, 288 CSS pixels: about what a phone's page leaves for a chart
LOWEST = 3.9  # inches of height of a narrow chart, whose legends take more rows
# Screens for the narrow picture, of charts of half and of all of the page's width:
# letters of the other one would be smaller than 10 pixels there.
SCREENS = (
    "(max-width: 520px), (min-width: 821px) and (max-width: 1000px)",
    "(max-width: 1000px)",
)
MOST_PLACES = 1000  # more than this can't be pointed at one by one


@dataclass(frozen=True)
class Readings:
    """What a chart says at places of its horizontal axis.

    Attributes
    ----------
    panels
        Whose axis it is, from the top.
    places, heads
        Coordinates, ascending, and how each is called.
    rows
        Label, colour and values of what is drawn; `None` where there is none.
    """

    panels: Sequence[Axes]
    places: Sequence[float]
    heads: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[float | None], str]]

    def for_page(self, boxes: list[list[float]]) -> dict[str, Any]:
        """For the script: values as words; `boxes` as `_box` has them, narrow first."""
        every = slice(None, None, -(-len(self.places) // MOST_PLACES) or 1)
        return {
            "boxes": boxes,
            "limits": self.panels[0].get_xlim(),
            "places": list(self.places[every]),
            "heads": list(self.heads[every]),
            "rows": [
                {
                    "label": label,
                    "color": f"light-dark({color}, {fs.DARK.get(color, color)})",
                    "values": [
                        "" if value is None else number(value, unit)
                        for value in values[every]
                    ],
                }
                for label, color, values, unit in self.rows
            ],
        }


def by_step(panels: Sequence[Axes], *curves: fs.Curve) -> Readings:
    """The values of curves, step by step."""
    curves = [curve for curve in curves if curve]
    steps = sorted({step for curve in curves for step in curve.steps})
    known = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    rows = [
        (curve.label, curve.color, [values.get(step) for step in steps], curve.unit)
        for curve, values in zip(curves, known, strict=True)
    ]
    return Readings(panels, steps, [f"Step {number(step)}" for step in steps], rows)


@dataclass(frozen=True)
class Plot:
    """One chart with the words that go with it; pictures are SVG.

    `readings` are as `Readings.for_page` returns them.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    narrow: str
    wide: bool = False
    readings: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        figure: Figure,
        name: str,
        title: str,
        caption: str,
        alt: str,
        readings: Readings | None = None,
        wide: bool = False,
        narrow: Figure | None = None,
    ) -> Plot:
        """Draw the figure at its own width and last at that of a phone, if there is no
        other one for that."""
        boxes = []
        svg = _draw(figure, readings, boxes)
        if narrow is None:
            narrow = figure
            figure.set_size_inches(NARROW, max(figure.get_figheight(), LOWEST))
        small = _draw(narrow, readings, boxes)
        said = readings and readings.for_page(boxes[::-1])
        return cls(name, title, caption, alt, svg, small, wide, said)

    @property
    def narrow_screens(self) -> str:
        """A media query for the narrow picture."""
        return SCREENS[self.wide]

    @property
    def uri(self) -> str:
        """The wide picture as a data URI."""
        return _uri(self.svg)

    @property
    def narrow_uri(self) -> str:
        return _uri(self.narrow)


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _draw(figure: Figure, readings: Readings | None, boxes: list) -> str:
    svg = fs.svg_text(figure)
    if readings:
        boxes.append(_box(readings.panels))
    return svg


def _box(panels: Sequence[Axes]) -> list[float]:
    """Left, width, top and height of all panels, as shares of the figure."""
    upper, lower = panels[0].get_position(), panels[-1].get_position()
    sides = lower.x0, lower.width, 1 - upper.y1, upper.y1 - lower.y0
    return [round(float(side), 4) for side in sides]
