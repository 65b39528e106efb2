"""Pictures of the tasks as the tensor that Qwen2.5-VL's vision tower takes.

The same numbers as the stock image processor's, for many pictures at once. And pictures
without their information, for the warm-up's share of blind ones.
Letters: `B` pictures, `P` patches of one picture (36 of 84 x 84 pixels), `H`, `W` its
height and width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter

from areal_cppo.tasks.pictures import IMAGE_SIDE, MERGE, PATCH
from areal_cppo.tasks.prompts import GRID, TaskPrompt

TEMPORAL = 2  # frames of a patch; a still picture is repeated

# Mean of the light background: around .5 the vision tower stays at chance.
IMAGE_MEAN = 0.925
IMAGE_STD = 0.25

# Of what makes a picture uninformative.
_COVERED_SHARE = 0.8  # of the patches
_N_NOISE_PATCHES = 50
_SMALL, _LARGE = (0.05, 0.15), (0.15, 0.30)  # of the picture's side
_CROP = (0.25, 0.40)  # of the picture's side
# Of mild changes.
_TURN = 5.0  # degrees, either way
_BLUR = (0.5, 1.1)  # pixels, standard deviation
_DUST = (5.0, 18.0)  # levels, standard deviation
_LIGHT = (0.8, 1.2)  # factors of brightness, contrast and saturation
_KINDS = ("blank", "covered_mean", "covered_black", "noise", "dense_noise", "crop")


def stack_images(
    images: Sequence[Image.Image], size: tuple[int, int] = (IMAGE_SIDE, IMAGE_SIDE)
) -> np.ndarray:
    """The bytes of pictures of one size (width, height): uint8 `[B, H, W, 3]`.

    Raises
    ------
    ValueError
        If a picture is not RGB of that size.
    """
    for image in images:
        if image.mode != "RGB" or image.size != size:
            raise ValueError(
                f"expected RGB pictures of {size[0]} x {size[1]} pixels, got "
                f"{image.mode} of {image.size[0]} x {image.size[1]}; use the "
                "checkpoint's processor for others"
            )
    return np.stack([np.asarray(image) for image in images])


def patch_pixels(pictures: np.ndarray) -> torch.Tensor:
    """Normalise pictures and cut them into patches, in the processor's order.

    Parameters
    ----------
    pictures
        uint8 `[B, H, W, 3]`; both sides multiples of 28.

    Returns
    -------
    Tensor
        float32 `[B * P, 3 * 2 * 14 * 14]`: patches of one merged token are neighbours;
        a patch holds channel, frame, row, column.
    """
    side = MERGE * PATCH
    rows, columns = pictures.shape[1] // side, pictures.shape[2] // side
    scaled = torch.from_numpy(pictures).float().div(255)
    normal = (scaled - IMAGE_MEAN) / IMAGE_STD
    cut = normal.reshape(-1, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    ordered = cut.permute(0, 1, 4, 2, 5, 7, 3, 6)  # B, rows, columns, 2, 2, C, 14, 14
    frames = ordered.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, TEMPORAL, -1, -1)
    return frames.reshape(-1, 3 * TEMPORAL * PATCH * PATCH)


def image_grid(n_images: int) -> torch.Tensor:
    """`image_grid_thw` of pictures of 84 x 84 pixels: int64 `[n_images, 3]`."""
    return torch.tensor([[1, GRID, GRID]]).expand(n_images, 3)


def prompt_grids(prompts: Sequence[TaskPrompt]) -> torch.Tensor:
    """`image_grid_thw` of the pictures of as many prompts: int64 `[B, 3]`."""
    return torch.tensor([[1, prompt.rows, prompt.columns] for prompt in prompts])


def split_pixels(
    pixels: torch.Tensor, prompts: Sequence[TaskPrompt]
) -> tuple[torch.Tensor, ...]:
    """The patches of each picture, `[P, 1176]`, out of those of all."""
    return pixels.split([prompt.n_patches for prompt in prompts])


def _mean_colour(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(-1, 3).mean(0).astype(np.uint8)


def _cover(picture: np.ndarray, colour: np.ndarray | int, rng: random.Random) -> None:
    columns = picture.shape[1] // PATCH
    n = picture.shape[0] // PATCH * columns
    for place in rng.sample(range(n), round(_COVERED_SHARE * n)):
        y, x = divmod(place, columns)
        rows, beyond = slice(y * PATCH, (y + 1) * PATCH), slice(x * PATCH, None)
        picture[rows, beyond][:, :PATCH] = colour


def _add_noise(
    picture: np.ndarray, bounds: tuple[float, float], rng: random.Random
) -> None:
    full_height, full_width = picture.shape[:2]
    for _ in range(_N_NOISE_PATCHES):
        width = round(rng.uniform(*bounds) * full_width)
        height = round(rng.uniform(*bounds) * full_height)
        x, y = rng.randint(0, full_width - width), rng.randint(0, full_height - height)
        drawn = np.frombuffer(rng.randbytes(width * height * 3), np.uint8)
        picture[y : y + height, x : x + width] = drawn.reshape(height, width, 3)


def _zoom(picture: np.ndarray, rng: random.Random) -> None:
    height, width = picture.shape[:2]
    share = rng.uniform(*_CROP)
    high, wide = round(share * height), round(share * width)
    x, y = rng.randint(0, width - wide), rng.randint(0, height - high)
    rows = np.arange(height) * high // height  # nearest neighbour
    columns = np.arange(width) * wide // width
    picture[:] = picture[y + rows][:, x + columns]


def change_mildly(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """A copy of a picture that shows the same otherwise, one of four ways at random.

    Turned a little, blurred, dusted in colours, or in another light: what a model has
    to have seen, so that it reads pictures that training changes in such ways. Plain
    byte operations, as those of `make_uninformative`.

    Parameters
    ----------
    picture
        uint8 `[H, W, 3]`; left as it is.
    rng
        Source of everything random; left advanced.

    Returns
    -------
    ndarray
        uint8 `[H, W, 3]`.
    """
    kind = rng.choice(("turn", "blur", "dust", "light"))
    if kind == "turn":
        turned = Image.fromarray(picture).rotate(
            rng.uniform(-_TURN, _TURN),
            Image.Resampling.BILINEAR,
            fillcolor=tuple(_mean_colour(picture).tolist())
            if rng.random() < 0.5
            else 0,
        )
        return np.array(turned)
    if kind == "blur":
        blur = ImageFilter.GaussianBlur(rng.uniform(*_BLUR))
        return np.array(Image.fromarray(picture).filter(blur))
    changed = picture.astype(np.float32)
    if kind == "dust":
        seeded = np.random.default_rng(rng.getrandbits(64))
        changed += seeded.normal(0, rng.uniform(*_DUST), changed.shape)
    else:
        brightness, contrast, saturation = (rng.uniform(*_LIGHT) for _ in range(3))
        changed = changed * brightness
        changed = (changed - changed.mean()) * contrast + changed.mean()
        grey = changed.mean(-1, keepdims=True)
        changed = (changed - grey) * saturation + grey
    return np.rint(changed).clip(0, 255).astype(np.uint8)


def make_uninformative(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """A copy of a picture that shows little or nothing, one of six ways at random.

    A model that never saw an uninformative picture reads digits off one with
    confidence; after a warm-up with some (the label kept) its entropy rises there, as
    it does in a large model. These are plain byte operations, for speed and for a
    warm-up that does not change when the training views do.

    Parameters
    ----------
    picture
        uint8 `[H, W, 3]`; left as it is.
    rng
        Source of everything random; left advanced.

    Returns
    -------
    ndarray
        uint8 `[H, W, 3]`.
    """
    changed = picture.copy()
    kind = rng.choice(_KINDS)
    if kind == "blank":
        changed[:] = _mean_colour(picture)
    elif kind == "covered_mean":
        _cover(changed, _mean_colour(picture), rng)
    elif kind == "covered_black":
        _cover(changed, 0, rng)
    elif kind == "noise":
        _add_noise(changed, _SMALL, rng)
    elif kind == "dense_noise":
        _add_noise(changed, _LARGE, rng)
    else:
        _zoom(changed, rng)
    return changed
