"""What every image perturbation shares: checked parameters, seeded draws.

Letters: ``C`` channels (3), ``H`` and ``W`` an image's sides in pixels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from areal_cppo.core.checks import Number, check_fields, setting

FRACTION = Number(low=0, high=1)
POSITIVE_FRACTION = Number(low=0, high=1, low_open=True)


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw one number uniformly from [low, high) on the CPU, in double precision."""
    draw = torch.rand((), generator=generator, dtype=torch.float64).item()
    return low + (high - low) * draw


def corners(left: float, top: float, right: float, bottom: float) -> Tensor:
    """Return ``[1, 4, 2]`` fp32 (x, y), clockwise from top left, pixel centres."""
    return torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way to change an image; calling it changes one image.

    Subclasses declare their parameters as checked fields and define ``apply``.
    """

    name: ClassVar[str]

    probability: float = setting(
        1.0, FRACTION, "chance that the perturbation is applied once it is drawn"
    )

    def __post_init__(self) -> None:
        check_fields(self, f"{self.name}.")

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Return the perturbed image, same shape; it may leave [0, 1] by rounding."""
        raise NotImplementedError

    def __call__(self, image: Tensor, generator: Generator) -> Tensor:
        """Perturb an image, or leave it as it is with chance 1 - probability.

        Args:
            image: ``[C, H, W]`` fp32 in [0, 1], on any device; not changed in place.
            generator: CPU generator, the only source of randomness.

        Returns:
            ``[C, H, W]`` fp32 in [0, 1], on the image's device.
        """
        if uniform(generator, 0.0, 1.0) >= self.probability:
            return image
        return self.apply(image, generator).clamp(0.0, 1.0)
