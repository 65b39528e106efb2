"""Paper, ink and pen of all pictures, and the held-out ways to draw them.

| shift | what differs from training |
| --- | --- |
| none | nothing |
| font | one of three families of DejaVu in place of Pillow's own font |
| noise | three times the noise |
| rotation | turned by 4 to 10 degrees, either way |
| colour | lit in a colour: each channel times .75 to 1 |
| jpeg | strongly compressed |
| clutter | stray thin lines and dots across it |
| place | drawn a little smaller, and elsewhere |

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
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
_QUALITY = (6, 14)  # of JPEG, whose scale ends at 95
_LINES, _DOTS = (1, 3), (5, 10)  # stray marks
_DOT = (0.8, 1.8)  # pixels, the radius
_SCALE = (0.92, 0.98)

Mark = tuple[
    float, ...
]  # of 84 x 84 pixels: two ends of a line, or a dot and its radius


@dataclass(frozen=True)
class Style:
    """What may differ between two pictures of the same thing in the same places.

    The defaults are those of training. `font`: a file of matplotlib's, without its
    ending; None is Pillow's own font. `noise`: standard deviation of the grey noise, in
    levels of 255. `degrees`: of a rotation around the middle, counter-clockwise.
    `light`: by what red, green and blue are multiplied. `quality`: of a compression by
    JPEG, None for none. `marks`: stray ones. `place`: by what the drawing's size is
    multiplied, and where it stands in the room that this leaves, from 0 to 1, across
    and down.
    """

    font: str | None = None
    noise: int = 8
    degrees: float = 0.0
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    quality: int | None = None
    marks: tuple[Mark, ...] = ()
    place: tuple[float, float, float] | None = None


TRAINED = Style()


def draw_style(shift: str, rng: random.Random) -> Style:
    """How to draw one picture under a shift.

    Parameters
    ----------
    shift
        One of `areal_cppo.config.SHIFTS`.
    rng
        Draws family, angle, light and so on; left advanced.

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
    if shift == "jpeg":
        return Style(quality=rng.randint(*_QUALITY))
    if shift == "clutter":
        return Style(marks=_draw_marks(rng))
    if shift == "place":
        return Style(place=(rng.uniform(*_SCALE), rng.random(), rng.random()))
    return TRAINED


def _draw_marks(rng: random.Random) -> tuple[Mark, ...]:
    def anywhere() -> tuple[float, float]:
        return (rng.uniform(0, IMAGE_SIDE), rng.uniform(0, IMAGE_SIDE))

    lines = [(*anywhere(), *anywhere()) for _ in range(rng.randint(*_LINES))]
    dots = [(*anywhere(), rng.uniform(*_DOT)) for _ in range(rng.randint(*_DOTS))]
    return (*lines, *dots)


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


def darker(colour: Colour, levels: int) -> Colour:
    """A colour with so many levels less of each channel."""
    red, green, blue = (channel - levels for channel in colour)
    return (red, green, blue)


def finish(image: Image.Image, rng: random.Random, style: Style) -> Image.Image:
    """Place, mark, turn, light, dust and compress a clean drawing, in this order.

    Parameters
    ----------
    image
        RGB, of any size; its corner shows the background.
    rng
        Source of the noise; left advanced, by the same amount whatever the style.
    """
    if style.place:
        image = _placed(image, *style.place)
    if style.marks:
        image = _marked(image, style.marks)
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
    finished = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return finished if style.quality is None else _compressed(finished, style.quality)


def _placed(
    image: Image.Image, scale: float, across: float, down: float
) -> Image.Image:
    """The picture in a smaller size, on its own background."""
    small = image.resize(
        (round(image.width * scale), round(image.height * scale)),
        Image.Resampling.BICUBIC,
    )
    paper = Image.new("RGB", image.size, image.getpixel((0, 0)))
    room = (image.width - small.width, image.height - small.height)
    paper.paste(small, (round(across * room[0]), round(down * room[1])))
    return paper


def _marked(image: Image.Image, marks: tuple[Mark, ...]) -> Image.Image:
    """With stray marks, in a colour between the background and black."""
    marked = image.copy()
    pen = ImageDraw.Draw(marked)
    across, down = image.width / IMAGE_SIDE, image.height / IMAGE_SIDE
    red, green, blue = image.getpixel((0, 0))
    colour = (red // 2, green // 2, blue // 2)
    for x, y, *rest in marks:
        x, y = x * across, y * down
        if len(rest) == 2:
            pen.line([(x, y), (rest[0] * across, rest[1] * down)], fill=colour)
        else:
            (radius,) = rest
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return marked


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    with BytesIO() as buffer:
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")


def _grey_noise(rng: random.Random, size: tuple[int, int], level: int) -> np.ndarray:
    """Noise of that standard deviation, alike in all channels: int16 `[H, W, 1]`."""
    width, height = size
    shape = (_N_BYTES, height, width, 1)
    drawn = np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    centred = drawn.astype(np.int16).sum(0, dtype=np.int16) - _BYTE_SUM_MEAN
    return centred * level // _BYTE_SUM_STD
