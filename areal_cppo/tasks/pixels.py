"""Pictures of the tasks as the tensor that Qwen2.5-VL's vision tower takes.

The same numbers as the stock image processor's, for many pictures of 84 x 84 pixels at
once. Letters: `B` pictures, `P` patches of one picture (36).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from areal_cppo.tasks.canvas import IMAGE_SIDE

PATCH = 14  # pixels, the side of a patch
MERGE = 2  # patches, the side of what becomes one image token
TEMPORAL = 2  # frames of a patch; a still picture is repeated
GRID = IMAGE_SIDE // PATCH  # patches, the side of a picture
N_PATCHES = GRID * GRID

# Mean of the light background: around .5 the vision tower stays at chance.
IMAGE_MEAN = 0.925
IMAGE_STD = 0.25


def stack_images(images: Sequence[Image.Image]) -> np.ndarray:
    """The pictures' bytes: uint8 `[B, 84, 84, 3]`.

    Raises
    ------
    ValueError
        If a picture is not RGB of 84 x 84 pixels.
    """
    for image in images:
        if image.mode != "RGB" or image.size != (IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(
                f"expected RGB pictures of {IMAGE_SIDE} x {IMAGE_SIDE} pixels, got "
                f"{image.mode} of {image.size[0]} x {image.size[1]}; use the "
                "checkpoint's processor for others"
            )
    return np.stack([np.asarray(image) for image in images])


def patch_pixels(pictures: np.ndarray) -> torch.Tensor:
    """Normalise pictures and cut them into patches, in the processor's order.

    Parameters
    ----------
    pictures
        uint8 `[B, 84, 84, 3]`.

    Returns
    -------
    Tensor
        float32 `[B * P, 3 * 2 * 14 * 14]`: patches of one merged token are neighbours;
        a patch holds channel, frame, row, column.
    """
    blocks = GRID // MERGE
    scaled = torch.from_numpy(pictures).float().div(255)
    normal = (scaled - IMAGE_MEAN) / IMAGE_STD
    cut = normal.reshape(-1, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    ordered = cut.permute(0, 1, 4, 2, 5, 7, 3, 6)  # B, rows, columns, 2, 2, C, 14, 14
    frames = ordered.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, TEMPORAL, -1, -1)
    return frames.reshape(-1, 3 * TEMPORAL * PATCH * PATCH)


def image_grid(n_images: int) -> torch.Tensor:
    """`image_grid_thw` of pictures of a task: int64 `[n_images, 3]`."""
    return torch.tensor([[1, GRID, GRID]]).expand(n_images, 3)
