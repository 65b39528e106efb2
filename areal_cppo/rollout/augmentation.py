"""The images that responses are sampled from, where `augmentation` changes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from areal_cppo.config.augmentation import AugmentationConfig
from areal_cppo.core import image_digest, make_views, parse_perturbations, view_seed
from areal_cppo.core.perturbation_base import uniform


class Augmenter:
    """Changes images; what becomes of one depends on it, the seed and the version only.

    Parameters
    ----------
    config
        What to change and how.
    seed
        The run's.
    steps
        Of the whole run, where the change fades.
    """

    def __init__(self, config: AugmentationConfig, seed: int, steps: int | None = None):
        self.config = config
        self.seed = seed
        self.steps = steps
        self._views = parse_perturbations(config.views) if config.on else ()

    def changed(
        self, images: Sequence[Image.Image], size: int, version: int
    ) -> tuple[list[Image.Image], int]:
        """A problem's images, changed, and how many of its `size` responses see them.

        Where none does the images come back as they are.
        """
        pixels = [_to_tensor(image) for image in images]
        seeds = [
            view_seed(self.seed, version, image_digest(each), "sampled")
            for each in pixels
        ]
        seeing = self.config.seeing(size) if self._chosen(seeds) else 0
        if not seeing:
            return list(images), 0
        left = self.config.left(version, self.steps)
        views = [view.faded(left) for view in self._views] if left < 1 else self._views
        return [_to_image(view) for view in make_views(pixels, views, seeds)], seeing

    def _chosen(self, seeds: Sequence[int]) -> bool:
        """Whether any response to a problem sees its images changed."""
        if not self._views or not seeds:
            return False
        if self.config.of == "responses":
            return True
        draws = torch.Generator().manual_seed(seeds[0] ^ 1)  # not the view's own draws
        return uniform(draws, 0.0, 1.0) < self.config.share


def _to_tensor(image: Image.Image) -> Tensor:
    """fp32 `[3, H, W]` in [0, 1]."""
    array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def _to_image(pixels: Tensor) -> Image.Image:
    levels = (pixels * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
