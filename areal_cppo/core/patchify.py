"""Images out of ``pixel_values`` and back: the patch layout of Qwen's vision models.

The processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL cut a normalised image into square
patches, repeat each for the temporal axis, and list them so that the ``merge_size`` x
``merge_size`` patches that become one token are neighbours. That is a re-ordering:
nothing is lost, and ``patchify(unpatchify(x)) == x`` bit for bit.

Letters: ``C`` channels, ``H`` and ``W`` an image's sides in pixels, ``P`` all patches
of a batch of images, ``F`` features of a patch (C * temporal_patch_size *
patch_size^2), ``I`` images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from areal_cppo.checks import COUNT, check_argument
from areal_cppo.core.shapes import check_shapes

# The mean and standard deviation of CLIP's training images, as in Qwen2(.5)-VL's
# processors; Qwen3-VL's have 0.5 throughout.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PatchLayout:
    """How a processor normalises images and orders their patches.

    Attributes
    ----------
    patch_size
        Side of a patch, pixels.
    temporal_patch_size
        How often a still image's patches are repeated.
    merge_size
        Side of the square of patches that becomes one token.
    channels
        Colour channels.
    image_mean, image_std
        One number per channel, in units of the [0, 1] image.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    channels: int = 3
    image_mean: tuple[float, ...] = _CLIP_MEAN
    image_std: tuple[float, ...] = _CLIP_STD

    def __post_init__(self) -> None:
        for name in ("patch_size", "temporal_patch_size", "merge_size", "channels"):
            fix = "take it from the model's image processor"
            check_argument(name, getattr(self, name), COUNT, fix)
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"{name}: expected {self.channels} numbers, one per channel, found "
                    f"{len(getattr(self, name))}; take them from the model's image "
                    "processor"
                )
        if min(self.image_std) <= 0:
            raise ValueError(
                f"image_std: expected numbers > 0, found {self.image_std}; "
                "take them from the model's image processor"
            )

    @classmethod
    def from_image_processor(cls, image_processor: Any) -> "PatchLayout":
        """Read the layout off an image processor of the Qwen-VL family.

        Parameters
        ----------
        image_processor
            Any object with ``patch_size``, ``temporal_patch_size``, ``merge_size``,
            ``image_mean`` and ``image_std``.

        Raises
        ------
        ValueError
            An attribute is missing.
        """
        names = [field.name for field in fields(cls) if field.name != "channels"]
        missing = [name for name in names if not hasattr(image_processor, name)]
        if missing:
            raise ValueError(
                "image_processor: expected one of the Qwen-VL family, found "
                f"{type(image_processor).__name__} without {', '.join(missing)}; "
                "use a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model"
            )
        found = {name: getattr(image_processor, name) for name in names}
        for name in ("image_mean", "image_std"):
            found[name] = tuple(found[name])
        return cls(channels=len(found["image_mean"]), **found)

    @property
    def patch_features(self) -> int:
        """Width ``F`` of a row of ``pixel_values``."""
        return self.channels * self.temporal_patch_size * self.patch_size**2


def unpatchify(
    pixel_values: Tensor, image_grid_thw: Tensor, layout: PatchLayout
) -> list[Tensor]:
    """Put the patches of still images back together.

    Parameters
    ----------
    pixel_values
        ``[P, F]``, any dtype, the processor's output.
    image_grid_thw
        ``[I, 3]`` ints: temporal (1), vertical and horizontal patches.
    layout
        Of the processor.

    Returns
    -------
    list[Tensor]
        I tensors ``[C, H, W]`` in the processor's normalised units, on the same device
        and of the same dtype; fresh memory.

    Raises
    ------
    ValueError
        A video, or patches that do not fit the grid or the layout.
    """
    grids = image_grids(pixel_values, image_grid_thw, layout)
    merge, size = layout.merge_size, layout.patch_size
    images = []
    for rows, (_, height, width) in zip(
        pixel_values.split([t * h * w for t, h, w in grids]), grids
    ):
        patches = rows.reshape(
            height // merge,
            width // merge,
            merge,
            merge,
            layout.channels,
            layout.temporal_patch_size,
            size,
            size,
        )
        still = patches[:, :, :, :, :, :1]
        if not torch.equal(still.expand_as(patches), patches):
            raise ValueError(
                "pixel_values: expected a still image repeated "
                f"{layout.temporal_patch_size} times along time, found patches that "
                "differ along time (a video, or not a number); pass images only"
            )
        # (C, rows of tokens, merge, size, columns of tokens, merge, size)
        image = still.squeeze(5).permute(4, 0, 2, 5, 1, 3, 6)
        images.append(
            image.reshape(layout.channels, height * size, width * size).clone()
        )
    return images


def patchify(images: Sequence[Tensor], layout: PatchLayout) -> Tensor:
    """Cut images into patches in the processor's order: the inverse of `unpatchify`.

    Parameters
    ----------
    images
        Tensors ``[C, H, W]`` of one dtype, H and W multiples of patch_size *
        merge_size, in the processor's normalised units.
    layout
        Of the processor.

    Returns
    -------
    Tensor
        ``pixel_values``, ``[P, F]``; ``[0, F]`` fp32 when there is no image.

    Raises
    ------
    ValueError
        An image's shape does not fit the layout.
    """
    size, merge = layout.patch_size, layout.merge_size
    side = size * merge
    batches = []
    for image in images:
        fits = image.dim() == 3 and image.shape[0] == layout.channels
        if not fits or image.shape[1] % side or image.shape[2] % side:
            raise ValueError(
                f"images: expected [{layout.channels}, H, W] with H and W multiples of "
                f"{side}, found {list(image.shape)}; resize as the processor does"
            )
        patches = image.reshape(
            layout.channels,
            image.shape[1] // side,
            merge,
            size,
            image.shape[2] // side,
            merge,
            size,
        ).permute(1, 4, 2, 5, 0, 3, 6)
        repeated = patches.unsqueeze(5).expand(
            *patches.shape[:5], layout.temporal_patch_size, size, size
        )
        batches.append(repeated.reshape(-1, layout.patch_features))
    return torch.cat(batches) if batches else torch.zeros(0, layout.patch_features)


def image_grids(
    pixel_values: Tensor, image_grid_thw: Tensor, layout: PatchLayout
) -> list[tuple[int, int, int]]:
    """Check that patches, grid and layout agree and return the grid as ints.

    Parameters
    ----------
    pixel_values, image_grid_thw, layout
        As :func:`unpatchify` takes them.

    Returns
    -------
    list[tuple[int, int, int]]
        One ``(1, patches high, patches wide)`` per image.

    Raises
    ------
    ValueError
        As :func:`unpatchify`.
    """
    check_shapes(
        "pass the processor's own", image_grid_thw=(image_grid_thw, "images 3")
    )
    check_shapes(
        "make the layout from the model's processor",
        pixel_values=(pixel_values, f"patches {layout.patch_features}"),
    )
    grids = [(t, h, w) for t, h, w in image_grid_thw.tolist()]
    for t, h, w in grids:
        if t != 1:
            raise ValueError(
                f"image_grid_thw: expected t = 1 (an image), found t = {t} (a video); "
                "videos are not supported, pass images only"
            )
        if h % layout.merge_size or w % layout.merge_size or min(h, w) < 1:
            raise ValueError(
                f"image_grid_thw: expected multiples of merge_size "
                f"{layout.merge_size}, found {h} x {w} patches; "
                "make the layout from the model's processor"
            )
    expected = sum(t * h * w for t, h, w in grids)
    if len(pixel_values) != expected:
        raise ValueError(
            f"pixel_values: expected {expected} patches, the sum over image_grid_thw, "
            f"found {len(pixel_values)}; pass both of the same images"
        )
    return grids


def denormalize(images: Sequence[Tensor], layout: PatchLayout) -> list[Tensor]:
    """Undo the processor's normalisation: ``image * std + mean``.

    Parameters
    ----------
    images, layout
        Tensors ``[C, H, W]``, any float dtype, in the processor's normalised units.

    Returns
    -------
    list[Tensor]
        fp32 tensors ``[C, H, W]`` in [0, 1] up to rounding.
    """
    return [
        image.float() * _per_channel(layout.image_std, image)
        + _per_channel(layout.image_mean, image)
        for image in images
    ]


def normalize(images: Sequence[Tensor], layout: PatchLayout) -> list[Tensor]:
    """Normalise as the processor does: ``(image - mean) / std``.

    Parameters
    ----------
    images, layout
        Tensors ``[C, H, W]``, any float dtype, in [0, 1].

    Returns
    -------
    list[Tensor]
        fp32 tensors ``[C, H, W]``.
    """
    return [
        (image.float() - _per_channel(layout.image_mean, image))
        / _per_channel(layout.image_std, image)
        for image in images
    ]


def _per_channel(values: tuple[float, ...], image: Tensor) -> Tensor:
    """Return ``[C, 1, 1]`` fp32 on the image's device."""
    return torch.tensor(values, device=image.device).view(-1, 1, 1)
