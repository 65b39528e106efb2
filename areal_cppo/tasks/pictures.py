"""Paper, ink and pen of all pictures, and the held-out ways to draw them.

| shift | what differs from training |
| --- | --- |
| none | nothing |
| font | one of three families of DejaVu in place of Pillow's own font |
| noise | three times the noise |
| rotation | turned by 4 to 10 degrees, either way |
| colour | lit in a colour: each channel times .75 to 1 |

Answer, layout and the colours before lighting stay those of the unshifted problem, so
that accuracies can be compared in pairs.

Everything random comes from the `random.Random` that the caller hands in, and the
pixels are the same on every machine with the same Pillow: the font is the one inside
Pillow (or, where a style says so, one that comes with matplotlib), laid out by Pillow's
own basic engine (not by whatever text shaper the machine has), and the noise is made of
integers only.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from areal_cppo.config import SHIFTS

PATCH = 14  # pixels, the side of a patch
MERGE = 2  # patches, the side of what becomes one image token
IMAGE_SIDE = 84  # pixels: 6 x 6 patches, merged into 9 image tokens; of most pictures

BACKGROUND = (215, 255)  # range of each colour channel: light
INK = (0, 90)  # range of each colour channel: dark

Colour = tuple[int, int, int]

_N_BYTES = 4  # uniform bytes summed for one noise value: nearly normal
_BYTE_SUM_MEAN = 510  # of four uniform bytes
_BYTE_SUM_STD = 148  # of four uniform bytes, rounded

_FONTS = ("DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
_NOISE = 24  # int16 holds the product with a sum of four bytes
_DEGREES = (4.0, 10.0)
_LIGHT = (0.75, 1.0)


@dataclass(frozen=True)
class Style:
    """What may differ between two pictures of the same thing in the same places.

    The defaults are those of training. `font`: a file of matplotlib's, without its
    ending; None is Pillow's own font. `noise`: standard deviation of the grey noise, in
    levels of 255. `degrees`: of a rotation around the middle, counter-clockwise.
    `light`: by what red, green and blue are multiplied.
    """

    font: str | None = None
    noise: int = 8
    degrees: float = 0.0
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


TRAINED = Style()


def draw_style(shift: str, rng: random.Random) -> Style:
    """How to draw one picture under a shift.

    Parameters
    ----------
    shift
        One of `areal_cppo.config.SHIFTS`.
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


@cache
def font(size: int, name: str | None = TRAINED.font) -> ImageFont.FreeTypeFont:
    """The font that a style names, in a size in points."""
    if name is None:
        loaded = ImageFont.load_default(size=size)
        return loaded.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.truetype(
        _fonts() / f"{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC
    )


@cache
def _fonts() -> Path:
    import matplotlib  # slow to import, and held-out pictures alone need it

    return Path(matplotlib.get_data_path(), "fonts", "ttf")


def draw_colour(rng: random.Random, bounds: tuple[int, int]) -> Colour:
    """A colour with each channel uniform between two bounds."""
    return (rng.randint(*bounds), rng.randint(*bounds), rng.randint(*bounds))


def finish(image: Image.Image, rng: random.Random, style: Style) -> Image.Image:
    """Turn, light and dust a clean drawing, in this order.

    Parameters
    ----------
    image
        RGB, of any size; its corner shows the background.
    rng
        Source of the noise; left advanced, by the same amount whatever the style.
    """
    if style.degrees:
        image = image.rotate(
            style.degrees,
            Image.Resampling.BICUBIC,
            fillcolor=image.getpixel((0, 0)),
        )
    pixels = np.asarray(image, np.int16)
    if style.light != TRAINED.light:
        pixels = np.rint(pixels * np.asarray(style.light)).astype(np.int16)
    noisy = pixels + _grey_noise(rng, image.size, style.noise)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _grey_noise(rng: random.Random, size: tuple[int, int], level: int) -> np.ndarray:
    """Noise of that standard deviation, alike in all channels: int16 `[H, W, 1]`."""
    width, height = size
    shape = (_N_BYTES, height, width, 1)
    drawn = np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    centred = drawn.astype(np.int16).sum(0, dtype=np.int16) - _BYTE_SUM_MEAN
    return centred * level // _BYTE_SUM_STD
