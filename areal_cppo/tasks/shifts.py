"""Held-out shifts: the same problems, drawn in ways that training never shows.

| shift | what differs from training |
| --- | --- |
| none | nothing |
| font | one of three families of DejaVu in place of Pillow's own font |
| noise | three times the noise |
| rotation | turned by 4 to 10 degrees, either way |
| colour | lit in a colour: each channel times .75 to 1 |

Answer, layout and the colours before lighting stay those of the unshifted problem, so
that accuracies can be compared in pairs.
"""

from __future__ import annotations

import random

from areal_cppo.tasks.canvas import TRAINED, Style

SHIFTS = ("none", "font", "noise", "rotation", "colour")

_FONTS = ("DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
_NOISE = 24  # int16 holds the product with a sum of four bytes
_DEGREES = (4.0, 10.0)
_LIGHT = (0.75, 1.0)


def draw_style(shift: str, rng: random.Random) -> Style:
    """How to draw one picture under a shift.

    Parameters
    ----------
    shift
        One of `SHIFTS`.
    rng
        Draws family, angle or light; left advanced.

    Raises
    ------
    ValueError
        If there is no such shift.
    """
    if shift not in SHIFTS:
        raise ValueError(
            f"shift: expected one of {', '.join(SHIFTS)}, found {shift!r}; correct it"
        )
    if shift == "font":
        return Style(font=rng.choice(_FONTS))
    if shift == "noise":
        return Style(noise=_NOISE)
    if shift == "rotation":
        return Style(degrees=rng.choice((-1, 1)) * rng.uniform(*_DEGREES))
    if shift == "colour":
        red, green, blue = (rng.uniform(*_LIGHT) for _ in range(3))
        return Style(light=(red, green, blue))
    return TRAINED
