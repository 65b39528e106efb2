"""The views of one optimiser step: made before any forward pass, once per image.

Views depend on images, run seed and policy version only, so they can be made when the
gate has spoken: a response whose negative view equals its anchor is then known before
the global batch is counted, and samples of one group share one pair of views.

Letters: `P` patches, `F` features of a patch (see `areal_cppo.core.patchify`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from areal_cppo.core import (
    PatchLayout,
    image_digest,
    parse_perturbations,
    perturb_pixel_values,
)


@dataclass(frozen=True)
class ResponseViews:
    """The views of all images of one response; one of the kinds is `negative`."""

    pixel_values: dict[str, torch.Tensor]  # by kind: [P, F], the anchor's dtype
    unchanged: dict[str, int]  # by kind: images whose view equals its anchor
    images: int

    @property
    def usable(self) -> bool:
        """Whether the negative view differs from the anchor in at least one image."""
        return self.unchanged["negative"] < self.images


class ViewMaker:
    """Makes the views of a batch's responses.

    Parameters
    ----------
    perturbations
        By kind of view those of which one is drawn for an image, as
        `parse_perturbations` takes them.
    layout
        How the model's `pixel_values` are patched.
    run_seed
        Together with the policy version and the image it fixes a view.
    """

    def __init__(
        self,
        perturbations: Mapping[str, list[dict[str, Any]]],
        layout: PatchLayout,
        run_seed: int,
    ):
        self.layout = layout
        self.run_seed = run_seed
        self.kinds = tuple(perturbations)
        self.perturbations = {
            kind: parse_perturbations(specs) for kind, specs in perturbations.items()
        }

    def __call__(
        self,
        images: list[dict[str, Any]],
        rows: Iterable[int],
        version: int,
        device: torch.device,
    ) -> dict[int, ResponseViews]:
        """Make the views of some responses.

        Parameters
        ----------
        images
            Per response its `pixel_values` and `image_grid_thw`.
        rows
            The responses to make views of, all of which have an image.
        version
            Current policy version.
        device
            Where to compute; views come back to where their images are.

        Returns
        -------
        dict
            By row; responses with equal images share one object.
        """
        made: dict[tuple[bytes, bytes], ResponseViews] = {}
        by_row = {}
        for row in rows:
            item = images[row]
            key = (
                image_digest(item["pixel_values"]),
                image_digest(item["image_grid_thw"]),
            )
            if key not in made:
                made[key] = self._views(item, version, device)
            by_row[row] = made[key]
        return by_row

    def _views(
        self, item: dict[str, Any], version: int, device: torch.device
    ) -> ResponseViews:
        pixel_values, grid = item["pixel_values"], item["image_grid_thw"]
        views = {
            kind: perturb_pixel_values(
                pixel_values.to(device),
                grid.to(device),
                self.layout,
                self.perturbations[kind],
                kind=kind,
                run_seed=self.run_seed,
                policy_version=version,
            )
            for kind in self.kinds
        }
        return ResponseViews(
            pixel_values={
                kind: view.pixel_values.to(pixel_values.device)
                for kind, view in views.items()
            },
            unchanged={kind: int(v.unchanged.sum()) for kind, v in views.items()},
            images=len(grid),
        )


def packed_view(
    views: list[ResponseViews], kind: str, anchor: torch.Tensor
) -> torch.Tensor:
    """Pixel values of a packed row seen through one view: `[P, F]`, as `anchor`.

    What `anchor` holds beyond the responses' own images (an image added to the padding)
    stays as it is.
    """
    parts = [view.pixel_values[kind].to(anchor.device) for view in views]
    own = sum(len(part) for part in parts)
    return torch.cat([*parts, anchor[own:]])
