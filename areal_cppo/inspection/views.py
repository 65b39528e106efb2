"""Three versions of some pictures, made by the code that training makes views with.

Letters: `P` patches, `F` features of a patch (see `areal_cppo.core.patches`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from areal_cppo.core import (
    PatchLayout,
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
    grid
        int `[pictures, 3]`, `image_grid_thw`; the same of all kinds.
    layout
        How the pictures are patched.
    """

    pixels: dict[str, torch.Tensor]
    unchanged: dict[str, list[bool]]
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
        drawn = {
            kind: perturb_pixel_values(
                anchor,
                grid,
                layout,
                parse_perturbations(getattr(config, kind)),
                kind=kind,
                run_seed=seed,
                policy_version=version,
            )
            for kind in VIEW_KINDS
        }
        pixels = {kind: view.pixel_values for kind, view in drawn.items()}
        unchanged = {kind: view.unchanged.tolist() for kind, view in drawn.items()}
        return cls({"anchor": anchor, **pixels}, unchanged, grid, layout)

    def pictures(self, kind: str) -> list[Image.Image]:
        """The pictures of one kind, to look at."""
        return pictures(self.pixels[kind], self.grid, self.layout)


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
