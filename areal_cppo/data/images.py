"""Pictures as a model of the Qwen-VL family takes them: RGB, upright, whole patches."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from areal_cppo.errors import UserError

if TYPE_CHECKING:  # a picture is looked at before torch or transformers is imported
    from transformers import ProcessorMixin

    from areal_cppo.config.blocks import DataConfig

# An image as a table holds it: the bytes of a file, a file, or none.
ImageSource = bytes | Path | None

# What Pillow raises on damaged files. tests/data/test_data_images.py looks for more.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Not EPS, which Pillow hands to a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class UnusableImage(Exception):
    """Of a row that can't be used; `reason` is its name (`check.REASONS`)."""

    reason: str


class MissingImage(UnusableImage):
    """There is no such image. The message says which."""

    reason = "missing_image"


class BrokenImage(UnusableImage):
    """The image can't be decoded. The message says why."""

    reason = "broken_image"


class ExtremeAspectRatio(UnusableImage):
    """No size within the limits keeps the image's shape. The message gives its size."""

    reason = "extreme_aspect_ratio"


def load_image(source: ImageSource) -> Image.Image:
    """Decode an image, as 8-bit RGB and upright.

    An EXIF orientation is carried out. Transparency becomes white, the paper that
    diagrams are drawn on (dropping it would show black on black). 16-bit and
    floating-point grey values are scaled to 8 bits instead of being clipped.

    Raises
    ------
    MissingImage
        There is no image, or no file where it should be.
    BrokenImage
        The file can't be read or decoded.
    """
    if source is None:
        raise MissingImage("no image")
    if isinstance(source, Path) and not source.is_file():
        raise MissingImage(f"no file {source}")
    try:
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=_FORMATS) as image:
            return _as_rgb(ImageOps.exif_transpose(image))
    except _DECODING_ERRORS as error:
        where = f"{source}: " if isinstance(source, Path) else ""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise BrokenImage(f"{where}{text[:120]}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(paper, picture).convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """One channel of more than 8 bits as one of 8.

    Integers beyond 255 are of 16 bits; floating-point values up to 1 are shares of
    white.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255):
        values = values / 257
    elif image.mode == "F" and values.max() <= 1:
        values = values * 255
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


@dataclass(frozen=True)
class ResizeRule:
    """The size at which a model sees a picture, and the way there.

    It is the model's own image processor's, with the narrower of its limits and the
    configuration's, so that the processor, which comes afterwards, changes nothing.

    Attributes
    ----------
    factor
        Pixels; both sides become multiples of it (patch size times merge size).
    min_pixels, max_pixels
        Limits of the area.
    resample
        Pillow's number of the filter.
    """

    factor: int
    min_pixels: int
    max_pixels: int
    resample: int

    @classmethod
    def of(cls, processor: ProcessorMixin, config: DataConfig) -> ResizeRule:
        """The rule of a model and a configuration.

        Raises
        ------
        UserError
            What is left between both's limits is too narrow to hold every picture.
        """
        from areal_cppo.config.blocks import RANGE

        own = processor.image_processor
        low = max(config.min_pixels, own.size["shortest_edge"])
        high = min(config.max_pixels, own.size["longest_edge"])
        if high < RANGE * low:
            raise UserError(
                f"data.min_pixels, data.max_pixels: expected a range whose end is at "
                f"least {RANGE} times its beginning within the model's own "
                f"[{own.size['shortest_edge']}, {own.size['longest_edge']}], found "
                f"[{config.min_pixels}, {config.max_pixels}]; widen it"
            )
        factor = own.patch_size * own.merge_size
        return cls(factor, low, high, int(own.resample))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to resize to, pixels.

        Raises
        ------
        ExtremeAspectRatio
            One side is over 200 times the other, or so much longer that an image one
            patch thin would exceed the largest area.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        if max(width, height) > 200 * min(width, height):
            raise ExtremeAspectRatio(f"{width} x {height}")
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        resized = smart_resize(height, width, self.factor, **limits)
        if smart_resize(*resized, self.factor, **limits) != resized:
            raise ExtremeAspectRatio(f"{width} x {height}")
        return resized[1], resized[0]

    def tokens(self, width: int, height: int) -> int:
        """Tokens of an image of that original size, after merging patches."""
        new_width, new_height = self.size(width, height)
        return (new_width // self.factor) * (new_height // self.factor)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture at the size at which the model sees it."""
        size = self.size(*image.size)
        return image if size == image.size else image.resize(size, self.resample)
