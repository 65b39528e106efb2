"""Perturbations that remove an image's information.

The published negative set (arXiv 2601.00501 and its code) is `noise_patches` and
`zoom_crop`. `black_squares` is in the published code, unused, and the masking of PAPO
and VPPO; `blank` and `noise` are ours, for controls. Deviation from the published code:
images are tensors after the processor's resize, not PIL images before it.

Letters: ``C`` channels (3), ``H`` and ``W`` an image's sides in pixels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from kornia.geometry import transform
from torch import Generator, Tensor

from areal_cppo.core.checks import Number, Range, setting
from areal_cppo.core.perturbation import (
    POSITIVE_FRACTION,
    Perturbation,
    corners,
    uniform,
)


@dataclass(frozen=True, kw_only=True)
class NoisePatches(Perturbation):
    """Cover random rectangles by uniform noise."""

    name: ClassVar[str] = "noise_patches"

    count: int = setting(50, Number(low=1, integer=True), "number of rectangles")
    side: tuple[float, float] = setting(
        (0.05, 0.15),
        Range(POSITIVE_FRACTION),
        "range of a rectangle's sides, as shares of the image's",
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Draw the rectangles, wholly inside the image; they may overlap."""
        rows = self._covered(image.shape[1], generator)  # [count, H]
        columns = self._covered(image.shape[2], generator)  # [count, W]
        covered = (rows.T @ columns) > 0
        noise = torch.rand(image.shape, generator=generator)
        return torch.where(covered.to(image.device), noise.to(image), image)

    def _covered(self, length: int, generator: Generator) -> Tensor:
        """Return ``[count, length]``, 1.0 where each rectangle covers one axis."""
        draws = torch.rand(2, self.count, generator=generator, dtype=torch.float64)
        low, high = self.side
        sizes = ((low + (high - low) * draws[0]) * length).round().clamp(min=1)
        starts = (draws[1] * (length - sizes + 1)).floor()
        pixels = torch.arange(length)
        inside = (pixels >= starts[:, None]) & (pixels < (starts + sizes)[:, None])
        return inside.float()


@dataclass(frozen=True, kw_only=True)
class ZoomCrop(Perturbation):
    """Keep a random rectangle of the image, enlarged to the whole size."""

    name: ClassVar[str] = "zoom_crop"

    scale: tuple[float, float] = setting(
        (0.6, 0.7),
        Range(POSITIVE_FRACTION),
        "range of the kept rectangle's sides, as a share of the image's",
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Crop, both sides by one factor, and enlarge bilinearly."""
        height, width = image.shape[1:]
        scale = uniform(generator, *self.scale)
        # Less than two pixels could not be interpolated.
        tall, wide = max(scale * height, 2.0), max(scale * width, 2.0)
        top = uniform(generator, 0.0, height - tall)
        left = uniform(generator, 0.0, width - wide)
        box = corners(left, top, left + wide - 1, top + tall - 1)
        return transform.crop_and_resize(
            image[None], box.to(image), (height, width), padding_mode="border"
        )[0]


@dataclass(frozen=True, kw_only=True)
class BlackSquares(Perturbation):
    """Blacken random cells of a grid of squares."""

    name: ClassVar[str] = "black_squares"

    coverage: float = setting(
        0.8, POSITIVE_FRACTION, "share of the squares that turn black"
    )
    square: int = setting(14, Number(low=1, integer=True), "side of a square, pixels")

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Blacken the drawn cells; those at the right and bottom may be cut."""
        height, width = image.shape[1:]
        rows, columns = -(-height // self.square), -(-width // self.square)
        black = torch.zeros(rows * columns, dtype=torch.bool)
        drawn = torch.randperm(rows * columns, generator=generator)
        black[drawn[: max(1, round(self.coverage * rows * columns))]] = True
        squares = black.view(rows, columns).repeat_interleave(self.square, dim=0)
        mask = squares.repeat_interleave(self.square, dim=1)[:height, :width]
        return image.masked_fill(mask.to(image.device), 0.0)


@dataclass(frozen=True, kw_only=True)
class Blank(Perturbation):
    """Fill the image with its own mean colour, or fade it towards that."""

    name: ClassVar[str] = "blank"

    strength: float = setting(
        1.0, POSITIVE_FRACTION, "share of the mean colour in the view; 1: nothing else"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Average each channel; nothing is random."""
        mean = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
        return (1 - self.strength) * image + self.strength * mean


@dataclass(frozen=True, kw_only=True)
class Noise(Perturbation):
    """Replace the image by uniform noise, or mix that into it."""

    name: ClassVar[str] = "noise"

    strength: float = setting(
        1.0, POSITIVE_FRACTION, "share of the noise in the view; 1: nothing else"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Draw every pixel and channel."""
        noise = torch.rand(image.shape, generator=generator).to(image)
        return (1 - self.strength) * image + self.strength * noise
