"""Perturbations that preserve an image's information: the published positive set.

`color_jitter`, `perspective`, `rotation` and `gaussian_blur` of arXiv 2601.00501 and
its code. Deviations from the published code:

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

from areal_cppo.core.checks import Number, Range, setting
from areal_cppo.core.perturbation import FRACTION, Perturbation, corners, uniform

_FACTOR = Range(Number(low=0))


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
        1.0, Number(low=0, low_open=True), "standard deviation of the blur, pixels"
    )

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Blur the image; nothing is random."""
        return filters.gaussian_blur2d(
            image[None], self.kernel_size, (self.sigma, self.sigma), "replicate"
        )[0]
