"""Pictures as a model of the Qwen-VL family takes them: RGB, upright, whole patches."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from areal_cppo.errors import UserError

if TYPE_CHECKING:  # a picture is looked at before torch or transformers is imported
    from transformers import ProcessorMixin

    from areal_cppo.config.blocks import DataConfig

# Not EPS, which Pillow hands to a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# How base64 of a PNG, JPEG, GIF, WebP or TIFF file begins.
_BARE = r"\s*(?:iVBORw0KGgo|/9j/[2-7]|R0lGOD|UklGR|SUkqA|TU0AK)[\w+/=\s-]{20}"
_BASE64 = re.compile(rf"(?i:data:)[^,]*,|{_BARE}", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SHOWN = 200  # characters of a text from the data


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


# An image as a row holds it: the bytes of a file, a file, none, or why it is unusable.
ImageSource = bytes | Path | UnusableImage | None


def image_sources(value: Any, folder: Path) -> list[ImageSource]:
    """The images of a row, which holds none, one, or a list; nothing is decoded.

    Parameters
    ----------
    value
        Bytes of a file, a path, base64 (bare, in a data URI), or the struct
        `{bytes, path}` of `datasets`' feature `Image`, whose path counts where it has
        no bytes. All of these may be written as JSON.
    folder
        Where relative paths begin.
    """
    value = _unwritten(value)
    if value is None:
        return []
    items = [_unwritten(each) for each in value] if isinstance(value, list) else [value]
    if any(isinstance(item, list | int | float) for item in items):
        return [BrokenImage(f"numbers or nested lists, as of pixels; {_EXPECTED}")]
    return [_image(item, folder) for item in items]


_EXPECTED = "expected bytes, a path or base64 of an image file"


def _unwritten(value: Any) -> Any:
    """What a text of JSON says; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # a path may begin so
    return value


def _image(value: Any, folder: Path) -> ImageSource:
    is_data = False  # as opposed to a path
    if isinstance(value, dict):
        if not value.keys() & {"bytes", "path"}:
            return BrokenImage(f"a struct of {in_line(', '.join(value))}; {_EXPECTED}")
        is_data = value.get("bytes") is not None
        value = value["bytes"] if is_data else value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        start = value[:99].decode("latin-1")
        return _decoded(value.decode("latin-1")) if _BASE64.match(start) else value
    if not isinstance(value, str):
        return BrokenImage(f"{type(value).__name__}; {_EXPECTED}")
    if is_data or _BASE64.match(value):
        return _decoded(value)
    if _URL.match(value):
        return MissingImage(f"a URL, which is not fetched: {in_line(value)}")
    return folder / value


def _decoded(text: str) -> ImageSource:
    """The bytes of a data URI, or of base64: padding and line breaks may be missing."""
    head, _, data = (
        text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    )
    if head and not head.lower().rstrip().endswith(";base64"):
        return BrokenImage(f"a data URI without ;base64: {in_line(head)}")
    letters = "".join(unquote(data).split()).rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        return BrokenImage(f"base64 that can't be decoded ({error})")


_URL_SAFE = str.maketrans("-_", "+/")


def in_line(text: object) -> str:
    """A text from the data as part of a message: one line, not too long."""
    line = "".join(
        c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split())
    )
    if len(line) <= _SHOWN:
        return line
    half = _SHOWN // 2
    return f"{line[:half]} ... {line[-half:]} ({len(line):,} characters)"


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
    if isinstance(source, UnusableImage):
        raise source
    if source is None:
        raise MissingImage("no image")
    where = f"{in_line(source)}: " if isinstance(source, Path) else ""
    if isinstance(source, Path):
        _check_file(source)
    try:
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=_FORMATS) as image:
            return _as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:  # its text has an address in memory
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        raise BrokenImage(
            f"{where}UnidentifiedImageError: no picture in {size:,} bytes"
        ) from error
    except Exception as error:  # of damaged files Pillow raises errors of many kinds
        text = in_line(f"{type(error).__name__}: {error}")[:120]
        raise BrokenImage(f"{where}{text}") from error


def _check_file(path: Path) -> None:
    try:
        kind = " (a folder)" if path.is_dir() else ""
        there = path.is_file()
    except OSError as error:  # too long a name, a folder that may not be looked into
        there, kind = False, f" ({error.strerror})"
    if not there:
        raise MissingImage(f"no file {in_line(path)}{kind}")


def pixels_digest(picture: Image.Image) -> str:
    """What two pictures have in common that are the same, pixel by pixel."""
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16)
    return f"{picture.width} x {picture.height} {digest.hexdigest()}"


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
            One side is over 200 times the other, before or after it has become whole
            patches; or so much longer that an image one patch thin would exceed the
            largest area.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        try:
            resized = smart_resize(height, width, self.factor, **limits)
            kept = smart_resize(*resized, self.factor, **limits) == resized
        except ValueError:  # beyond 200 : 1
            kept = False
        if not kept:
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
