"""What a perturbation is: one way to change an image.

Letters: ``C`` channels (3), ``H`` and ``W`` an image's sides in pixels.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from areal_cppo.checks import FRACTION, check_fields, refusal, setting


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
    strength_field: ClassVar[str | None] = None  # by which it fades to nothing

    probability: float = setting(
        1.0, FRACTION, "chance that the perturbation is applied once it is drawn"
    )

    def __post_init__(self) -> None:
        check_fields(self, f"{self.name}.")

    def apply(self, image: Tensor, generator: Generator) -> Tensor:
        """Return the perturbed image, same shape; it may leave [0, 1] by rounding."""
        raise NotImplementedError

    def faded(self, left: float) -> Self:
        """Return the perturbation with a share of its strength, in (0, 1].

        Raises
        ------
        ValueError
            It has no strength.
        """
        if self.strength_field is None:
            fading = [p.name for p in Perturbation.__subclasses__() if p.strength_field]
            raise refusal(
                "name",
                f"a perturbation that can fade ({', '.join(sorted(fading))})",
                self.name,
                "choose one of them, or do not anneal",
            )
        value = getattr(self, self.strength_field)
        return replace(self, **{self.strength_field: type(value)(left * value)})

    def __call__(self, image: Tensor, generator: Generator) -> Tensor:
        """Perturb an image, or leave it as it is with chance 1 - probability.

        Parameters
        ----------
        image
            ``[C, H, W]`` fp32 in [0, 1], on any device; not changed in place. So is
            the result, on the same device.
        generator
            CPU generator, the only source of randomness.
        """
        if uniform(generator, 0.0, 1.0) >= self.probability:
            return image
        return self.apply(image, generator).clamp(0.0, 1.0)
