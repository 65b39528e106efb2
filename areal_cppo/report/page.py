"""The frame of every page: one HTML file that needs nothing but itself.

Pages are Jinja templates (`templates/`). Whatever a run says is escaped there, and its
control characters are shown as pictures, unless it is marked as HTML.
"""

import base64
import io
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from areal_cppo import __version__
from areal_cppo.report.runs import is_number

PACKAGES = ("torch", "areal", "sglang", "transformers")

# Per theme: page, ink, and the colour of full entropy gain (blended by the gain).
# Ink on any blend keeps a contrast of at least 4.5 (tested).
THEMES = {
    "light": {
        "page": (255, 255, 255),
        "ink": (31, 35, 40),
        "heat": (240, 136, 20),
        "back": (246, 248, 250),
        "muted": (87, 96, 106),
        "rule": (216, 222, 228),
        "accent": (0, 94, 148),
        "warn": (255, 248, 225),
        "alarm": (163, 64, 0),
    },
    "dark": {
        "page": (22, 27, 34),
        "ink": (240, 243, 246),
        "heat": (158, 82, 0),
        "back": (13, 17, 23),
        "muted": (163, 173, 186),
        "rule": (48, 54, 61),
        "accent": (106, 182, 232),
        "warn": (50, 42, 16),
        "alarm": (240, 150, 90),
    },
}

# Control characters that would be invisible, or invalid in HTML, as pictures.
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_VISIBLE |= {0x7F: "\u2421"} | {code: "\ufffd" for code in range(0x80, 0xA0)}
_VISIBLE |= {code: "\ufffd" for code in range(0xD800, 0xE000)}  # lone surrogates


def visible(value: object) -> str:
    """Any value as text without control characters; HTML stays as it is."""
    return value if isinstance(value, Markup) else str(value).translate(_VISIBLE)


def number(value: object, unit: str = "") -> str:
    """A number as people write it: three digits that matter, shares in per cent."""
    if not is_number(value):
        return "-" if value is None else str(value)
    if unit == "share":
        return f"{100 * value:.1f} %"
    if float(value).is_integer() and abs(value) < 1e15:
        shown = f"{int(value):,}"
    elif abs(value) >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:.3g}"
    return f"{shown} {unit}".rstrip().replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, the two largest that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def image_uri(image: Any) -> str:
    """The image as a data URI: its own, if it has one, else of PNG."""
    if not isinstance(image, Image.Image):
        return image.uri
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def versions() -> str:
    """This package and those whose versions matter."""
    names = [f"Python {python_version()}"]
    names += [f"{package} {_version(package)}" for package in PACKAGES]
    return f"areal_cppo {__version__}, {', '.join(names)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html.j2"]),
    finalize=visible,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.globals |= {"themes": THEMES, "versions": versions}
TEMPLATES.filters |= {"number": number, "image_uri": image_uri}


def render(template: str, **values: Any) -> str:
    """A page of `templates/`, filled with values."""
    return TEMPLATES.get_template(template).render(values)
