"""Small pieces of HTML. Whatever comes from a run passes through `text`."""

import base64
import io
from html import escape

from PIL import Image

from areal_cppo.report.runs import is_number

# Control characters that would be invisible, or invalid in HTML, as pictures.
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_VISIBLE |= {0x7F: "\u2421"} | {code: "\ufffd" for code in range(0x80, 0xA0)}
_VISIBLE |= {code: "\ufffd" for code in range(0xD800, 0xE000)}  # lone surrogates


def text(value: object) -> str:
    """Any value as HTML text, fit for attributes too."""
    return escape(str(value).translate(_VISIBLE), quote=True)


def token_text(value: str) -> str:
    """A token's text with its white space made visible, but for spaces beside words."""
    shown = value.replace("\n", "\u23ce").replace("\t", "\u21e5")
    if not shown.strip(" "):
        shown = shown.replace(" ", "\u2423")
    return text(shown) or "\u2205"


def number(value: object, unit: str = "") -> str:
    """A number as people write it: three digits that matter, shares in per cent."""
    if not is_number(value):
        return "-" if value is None else text(value)
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


def png_uri(image: Image.Image) -> str:
    """The image as a PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
