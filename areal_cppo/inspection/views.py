"""Three versions of some pictures, made by the code that training makes views with.

Letters: `P` patches, `F` features of a patch (see `areal_cppo.core.patchify`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from areal_cppo.core import (
    PatchLayout,
    Perturbation,
    ViewsConfig,
    denormalize,
    parse_perturbations,
    perturb_pixel_values,
    unpatchify,
)
from areal_cppo.report.samples import IMAGE_KINDS

VIEW_KINDS = IMAGE_KINDS[1:]


@dataclass(frozen=True)
class Views:
    """Some pictures and their views, as the model sees them.

    Attributes
    ----------
    pixels
        By kind (anchor, positive, negative): float `[P, F]`.
    unchanged
        By kind (positive, negative): of each picture, whether the view equals it.
    drawn
        By kind: names of the perturbations that were drawn, one a distinct picture.
    grid
        int `[pictures, 3]`, `image_grid_thw`; the same of all kinds.
    layout
        How the pictures are patched.
    """

    pixels: dict[str, torch.Tensor]
    unchanged: dict[str, list[bool]]
    drawn: dict[str, list[str]]
    grid: torch.Tensor
    layout: PatchLayout

    @classmethod
    def draw(
        cls,
        anchor: torch.Tensor,
        grid: torch.Tensor,
        layout: PatchLayout,
        config: ViewsConfig,
        seed: int,
        version: int = 0,
    ) -> Views:
        """Draw one view of each kind, as training does at a policy version.

        Parameters
        ----------
        anchor
            `[P, F]`, the processor's `pixel_values`.
        grid, layout
            As the attributes.
        config
            `actor.cpl.views`.
        seed
            `actor.view_seed`; with `version` and the picture it fixes a view.
        version
            Policy version.
        """
        pixels, unchanged = {"anchor": anchor}, {}
        drawn: dict[str, list[str]] = {kind: [] for kind in VIEW_KINDS}
        for kind in VIEW_KINDS:
            listed = parse_perturbations(getattr(config, kind), f"cpl.views.{kind}")
            view = perturb_pixel_values(
                anchor,
                grid,
                layout,
                [_Noted(perturbation, drawn[kind]) for perturbation in listed],
                kind=kind,
                run_seed=seed,
                policy_version=version,
            )
            pixels[kind] = view.pixel_values
            unchanged[kind] = view.unchanged.tolist()
        return cls(pixels, unchanged, drawn, grid, layout)

    def names(self, kind: str) -> list[str]:
        """The perturbation of each picture's view; empty where pictures repeat."""
        drawn = self.drawn[kind]
        return drawn if len(drawn) == len(self.grid) else []

    def pictures(self, kind: str) -> list[Image.Image]:
        """The pictures of one kind, to look at."""
        return pictures(self.pixels[kind], self.grid, self.layout)


class _Noted:
    """A perturbation that says when it was drawn."""

    def __init__(self, perturbation: Perturbation, drawn: list[str]):
        self.perturbation = perturbation
        self.drawn = drawn

    def __call__(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.drawn.append(self.perturbation.name)
        return self.perturbation(image, generator)


def pictures(
    pixel_values: torch.Tensor, grid: torch.Tensor, layout: PatchLayout
) -> list[Image.Image]:
    """Patches `[P, F]` as RGB pictures, one a row of `grid`."""
    images = denormalize(unpatchify(pixel_values, grid, layout), layout)
    return [
        Image.fromarray(
            image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        )
        for image in images
    ]
