"""Views of a rank's images, made while something else computes.

A view depends on its image, the run's seed and the policy version alone. So the views
of a whole update are begun as soon as its advantages are known, in threads: while the
controller hands the batch over again, and while earlier mini-batches compute. They wait
on the CPU; a pass takes to the GPU what it needs.

Letters: see `step/__init__.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from areal_cppo.config.memory import VIEW_THREADS
from areal_cppo.core import PatchLayout, parse_perturbations, perturb_kinds
from areal_cppo.core.perturbation_base import Perturbation


@dataclass(frozen=True)
class ResponseViews:
    """The views of all images of one response; one of the kinds is `negative`."""

    pixel_values: dict[str, Tensor]  # by kind: [P, F], the anchor's dtype and device
    unchanged: dict[str, int]  # by kind: images whose view equals its anchor
    images: int

    @property
    def usable(self) -> bool:
        """Whether the negative view differs from the anchor in at least one image."""
        return self.unchanged["negative"] < self.images


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of a response's images.

    Attributes
    ----------
    perturbations
        By kind of view those of which one is drawn for an image, as
        `parse_perturbations` takes them.
    layout
        How the model's `pixel_values` are patched.
    run_seed
        Together with the policy version and the image it fixes a view.
    """

    perturbations: Mapping[str, list[dict[str, Any]]]
    layout: PatchLayout
    run_seed: int
    _parsed: dict[str, list[Perturbation]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self):
        for kind, listed in self.perturbations.items():
            self._parsed[kind] = parse_perturbations(listed)

    def __call__(
        self, item: Mapping[str, Tensor], version: int, device: torch.device
    ) -> ResponseViews:
        """The views of `pixel_values` `[P, F]` and `image_grid_thw` for a version.

        They are made on `device`, and are where the images are.
        """
        grid = item["image_grid_thw"]
        views = perturb_kinds(
            item["pixel_values"],
            grid,
            self.layout,
            self._parsed,
            run_seed=self.run_seed,
            policy_version=version,
            device=device,
        )
        return ResponseViews(
            {kind: view.pixel_values for kind, view in views.items()},
            {kind: int(view.unchanged.sum()) for kind, view in views.items()},
            len(grid),
        )


@dataclass(frozen=True)
class Begun:
    """Views that are made or being made, and what they are made of."""

    pixel_values: Tensor
    make: ViewMaker
    version: int
    views: Future[ResponseViews]

    def is_of(self, pixel_values: Tensor, make: ViewMaker, version: int) -> bool:
        """Whether these are the views that would be made of that very tensor."""
        own = self.pixel_values is pixel_values
        return own and self.version == version and self.make == make


class Workshop:
    """Where a rank's views are made: threads, and what they have begun."""

    def __init__(self):
        cores = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(min(VIEW_THREADS, cores), "views")
        self._begun: dict[int, Begun] = {}

    def begin(
        self,
        make: ViewMaker,
        items: Sequence[Mapping[str, Tensor]],
        version: int,
        device: torch.device,
    ) -> None:
        """Begin the views of images, in this order; those that are begun already, and
        nobody has taken, are not begun again.

        Parameters
        ----------
        make
            What makes them.
        items
            Each with `pixel_values` and `image_grid_thw`.
        version
            Policy version that they are drawn for.
        device
            Where they are made.
        """
        for item in items:
            pixels = item["pixel_values"]
            begun = self._begun.get(id(pixels))
            if begun is None or not begun.is_of(pixels, make, version):
                views = self._threads.submit(make, item, version, device)
                self._begun[id(pixels)] = Begun(pixels, make, version, views)

    def take(
        self,
        make: ViewMaker,
        items: Sequence[Mapping[str, Tensor]],
        version: int,
        device: torch.device,
    ) -> list[ResponseViews]:
        """The views of images, all different, as `begin` takes them; waits for them."""
        self.begin(make, items, version, device)
        begun = [self._begun.pop(id(item["pixel_values"])) for item in items]
        return [each.views.result() for each in begun]

    def clear(self) -> None:
        """Let go of what was begun and nobody took."""
        for each in self._begun.values():
            each.views.cancel()
        self._begun.clear()
