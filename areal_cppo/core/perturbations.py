"""Perturbations of images.

Those that preserve an image's information, the published positive set of arXiv
2601.00501 and its code: `color_jitter`, `perspective`, `rotation` and `gaussian_blur`.
Those that remove information: `noise_patches` and `zoom_crop`, the published negative
set; `black_squares`, in the published code, unused, and the masking of PAPO and VPPO;
`blank` and `noise`, ours, for controls. And `diffusion_noise`, what NoisyRollout (arXiv
2504.13055) samples from. Deviations from the published code of CPPO:

1. Images are tensors after the processor's resize, not PIL images before it.
2. Rotation and perspective interpolate bilinearly; torchvision's rotation default is
   the nearest pixel. What comes from outside the image is black in both.
3. The blur repeats border pixels instead of reflecting, so any kernel fits any image.

Letters: ``C`` channels (3), ``H`` and ``W`` an image's sides in pixels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from kornia import enhance, filters
from kornia.geometry import transform
from torch import Generator, Tensor

from areal_cppo.checks import FRACTION, POSITIVE_FRACTION, Number, Range, setting
from areal_cppo.core.perturbation_base import Perturbation, corners, uniform

_FACTOR = Range(Number(low=0, high=100))


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Perturbation):
    """Brightness, contrast and saturation, each by a random factor, in random order.

    The factors are those of PIL and torchvision: brightness scales the pixels (kornia's
    ``adjust_brightness`` would add), contrast scales about the mean luminance,
    saturation scales about each pixel's luminance.
    """

    name: ClassVar[str] = "color_jitter"

    brightness: tuple[float, float] = setting(
        (0.2, 1.3), _FACTOR, "range of the brightness factor"
    )
    contrast: tuple[float, float] = setting(
        (0.2, 1.8), _FACTOR, "range of the contrast factor"
    )
    saturation: tuple[float, float] = setting(
        (0.2, 1.8), _FACTOR, "range of the saturation factor"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Apply the three adjustments, each clamped to [0, 1] as torchvision does."""
        steps = (
            (enhance.adjust_brightness_accumulative, self.brightness),
            (enhance.adjust_contrast_with_mean_subtraction, self.contrast),
            (enhance.adjust_saturation_with_gray_subtraction, self.saturation),
        )
        for step in torch.randperm(len(steps), generator=generator).tolist():
            adjust, bounds = steps[step]
            image = adjust(image, uniform(generator, *bounds))
        return image


@dataclass(frozen=True, kw_only=True)
class Perspective(Perturbation):
    """Move each corner inwards by up to half of ``distortion`` of the side."""

    name: ClassVar[str] = "perspective"

    distortion: float = setting(
        0.2, FRACTION, "largest shift of a corner, as a share of half the side"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Warp the image onto the moved corners; outside of them is black."""
        height, width = image.shape[1:]
        at_rest = corners(0.0, 0.0, width - 1.0, height - 1.0)
        shift = torch.rand(1, 4, 2, generator=generator) * self.distortion / 2
        inwards = torch.tensor([[[1, 1], [-1, 1], [-1, -1], [1, -1]]])
        moved = at_rest + shift * inwards * torch.tensor([width, height])
        matrix = transform.get_perspective_transform(at_rest, moved)
        return transform.warp_perspective(
            image[None], matrix.to(image), (height, width)
        )[0]


@dataclass(frozen=True, kw_only=True)
class Rotation(Perturbation):
    """Rotate about the centre by a random angle."""

    name: ClassVar[str] = "rotation"
    strength_field: ClassVar[str | None] = "degrees"

    degrees: float = setting(
        10.0, Number(low=0, high=180), "largest angle, degrees, in either direction"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Rotate at the same size; what comes from outside the image is black."""
        angle = torch.tensor([uniform(generator, -self.degrees, self.degrees)])
        return transform.rotate(image[None], angle.to(image))[0]


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Perturbation):
    """Blur; as a negative view, with a sigma of a quarter of the kernel or more."""

    name: ClassVar[str] = "gaussian_blur"

    kernel_size: int = setting(
        3, Number(low=1, high=511, integer=True, odd=True), "side of the kernel, pixels"
    )
    sigma: float = setting(
        1.0, Number(low=0.01, high=1000), "standard deviation of the blur, pixels"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Blur the image; nothing is random."""
        return filters.gaussian_blur2d(
            image[None], self.kernel_size, (self.sigma, self.sigma), "replicate"
        )[0]


@dataclass(frozen=True, kw_only=True)
class NoisePatches(Perturbation):
    """Cover random rectangles by uniform noise."""

    name: ClassVar[str] = "noise_patches"

    count: int = setting(
        50, Number(low=1, high=10_000, integer=True), "number of rectangles"
    )
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
    square: int = setting(
        14, Number(low=1, high=4096, integer=True), "side of a square, pixels"
    )

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
    strength_field: ClassVar[str | None] = "strength"

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
    strength_field: ClassVar[str | None] = "strength"

    strength: float = setting(
        1.0, POSITIVE_FRACTION, "share of the noise in the view; 1: nothing else"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Draw every pixel and channel."""
        noise = torch.rand(image.shape, generator=generator).to(image)
        return (1 - self.strength) * image + self.strength * noise


@dataclass(frozen=True, kw_only=True)
class DiffusionNoise(Perturbation):
    """Add normal noise as so many steps of a diffusion do (arXiv 2504.13055).

    ``sqrt(a) image + sqrt(1 - a) noise`` with ``a`` the product of ``1 - b`` over the
    first ``steps + 1`` of 1,000 steps; their ``b`` rises from 1e-5 to .005 along a
    sigmoid over [-6, 6]. The paper doesn't give the schedule; this one is its code's.
    """

    name: ClassVar[str] = "diffusion_noise"
    strength_field: ClassVar[str | None] = "steps"

    steps: int = setting(
        500, Number(low=0, high=999, integer=True), "of 1,000, at which all is noise"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Draw every pixel and channel; the result is clamped."""
        place = torch.linspace(-6, 6, 1000, dtype=torch.float64)
        added = torch.sigmoid(place) * (0.005 - 1e-5) + 1e-5
        kept = (1 - added[: self.steps + 1]).prod().item()
        noise = torch.randn(image.shape, generator=generator).to(image)
        return kept**0.5 * image + (1 - kept) ** 0.5 * noise


PERTURBATIONS: dict[str, type[Perturbation]] = {
    cls.name: cls for cls in Perturbation.__subclasses__()
}
