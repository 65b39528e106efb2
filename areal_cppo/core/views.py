"""Views of images: seeded, one perturbation per image, on ``pixel_values``.

As in arXiv 2601.00501 one perturbation is drawn uniformly for each image. Deviations
from the published code, which draws views once, unseeded, when the dataset is mapped:

1. A view depends on the run's seed, the policy version, the image and the kind of view
   only: it is drawn anew for every version and is the same for every sample of a group,
   on every rank and device.
2. An image that no perturbation changed is reported, never passed off as a view.

Letters: ``C`` channels, ``H`` and ``W`` an image's sides in pixels, ``P`` patches,
``F`` features of a patch, ``I`` images.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from areal_cppo.checks import Choice, check_argument
from areal_cppo.core.patchify import (
    PatchLayout,
    denormalize,
    image_grids,
    normalize,
    patchify,
    unpatchify,
)
from areal_cppo.core.perturbation_base import Perturbation

_KINDS = ("positive", "negative", "sampled", "tokens", "responses")
_DIGEST_BYTES = 16
# Half of the smallest step of an 8-bit image: below it nothing was changed.
_UNCHANGED_BELOW = 1 / 255 / 2


class ViewBatch(NamedTuple):
    """Perturbed images in the processor's layout.

    Attributes
    ----------
    pixel_values
        ``[P, F]``, shape, dtype and device of the anchor's.
    unchanged
        ``[I]`` bool on the same device, True where a view is its anchor.
    """

    pixel_values: Tensor
    unchanged: Tensor


def image_digest(image: Tensor) -> bytes:
    """Hash an image's shape and raw bytes.

    Parameters
    ----------
    image
        Any shape, dtype and device.

    Returns
    -------
    bytes
        16 bytes, the same for equal content on any machine of the same endianness.
    """
    raw = image.detach().cpu().contiguous().flatten().view(torch.uint8)
    digest = hashlib.blake2b(
        str(tuple(image.shape)).encode(), digest_size=_DIGEST_BYTES
    )
    digest.update(raw.numpy())
    return digest.digest()


def view_seed(run_seed: int, policy_version: int, digest: bytes, kind: str) -> int:
    """Derive the seed of one image's view, or of a draw that concerns one response.

    Parameters
    ----------
    run_seed
        The run's seed.
    policy_version
        The policy version that the view is drawn for.
    digest
        Of the image, or of the sequence's token ids, from :func:`image_digest`.
    kind
        ``positive`` or ``negative`` view, ``sampled`` for the one that responses are
        sampled from, ``tokens`` for the selection within a response, ``responses`` for
        that among a group's.

    Returns
    -------
    int
        An int in [0, 2^63). All of its bits are mixed: torch's CPU generator uses the
        low 32 only.

    Raises
    ------
    ValueError
        An unknown kind.
    """
    check_argument("kind", kind, Choice(_KINDS), "pass what the seed is for")
    text = f"{int(run_seed)} {int(policy_version)} {kind} ".encode()
    mixed = hashlib.blake2b(text + digest, digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> 1


@torch.no_grad()
def make_views(
    images: Sequence[Tensor],
    perturbations: Sequence[Perturbation],
    seeds: Sequence[int],
) -> list[Tensor]:
    """Perturb each image by one perturbation, drawn uniformly.

    Parameters
    ----------
    images
        Tensors ``[C, H, W]`` fp32 in [0, 1], on any device.
    perturbations
        At least one, from ``parse_perturbations``.
    seeds
        One per image; it alone decides what is drawn.

    Returns
    -------
    list[Tensor]
        Tensors of the same shapes, in [0, 1]; an image whose perturbation was not
        applied comes back as it is. The global random state is left alone.

    Raises
    ------
    ValueError
        No perturbation, or not one seed per image.
    """
    if not perturbations:
        raise ValueError(
            "perturbations: expected at least one, found none; "
            "parse the list under cpl.views"
        )
    if len(seeds) != len(images):
        raise ValueError(
            f"seeds: expected {len(images)}, one per image, found {len(seeds)}; "
            "derive each with view_seed"
        )
    views = []
    for image, seed in zip(images, seeds):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        drawn = torch.randint(len(perturbations), (), generator=generator).item()
        views.append(perturbations[drawn](image, generator))
    return views


def perturb_pixel_values(
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    layout: PatchLayout,
    perturbations: Sequence[Perturbation],
    *,
    kind: str,
    run_seed: int,
    policy_version: int,
) -> ViewBatch:
    """Make one view of every image of a batch, in the processor's layout.

    Parameters and errors are those of :func:`perturb_kinds`, for one kind.
    """
    return perturb_kinds(
        pixel_values,
        image_grid_thw,
        layout,
        {kind: perturbations},
        run_seed=run_seed,
        policy_version=policy_version,
    )[kind]


@torch.no_grad()
def perturb_kinds(
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    layout: PatchLayout,
    perturbations: Mapping[str, Sequence[Perturbation]],
    *,
    run_seed: int,
    policy_version: int,
    device: torch.device | None = None,
) -> dict[str, ViewBatch]:
    """Make a view of each kind of every image of a batch, in the processor's layout.

    Images are clamped to [0, 1] before they are perturbed. Equal images get equal views
    and are perturbed once; each is hashed once, whatever the kinds. The grid, hence
    every token position, stays the same.

    Parameters
    ----------
    pixel_values
        ``[P, F]``, any float dtype, the anchor's.
    image_grid_thw
        ``[I, 3]`` ints; I may be 0.
    layout
        Of the processor that made ``pixel_values``.
    perturbations
        By kind, ``positive`` or ``negative``, which decides the seeds only: at least
        one, from ``parse_perturbations``.
    run_seed
        The run's seed.
    policy_version
        The policy version that views are drawn for.
    device
        Where images are perturbed; by default where they are.

    Returns
    -------
    dict[str, ViewBatch]
        The views by kind. Where ``unchanged``, the largest difference from the clamped
        anchor is below half an 8-bit step, and the patches are the anchor's bit for
        bit.

    Raises
    ------
    ValueError
        As ``unpatchify``, :func:`view_seed` and :func:`make_views`.
    """
    images = unpatchify(pixel_values, image_grid_thw, layout)
    digests = [image_digest(image) for image in images]
    distinct = {digest: image.to(device) for digest, image in zip(digests, images)}
    anchors = [
        image.clamp(0.0, 1.0) for image in denormalize(list(distinct.values()), layout)
    ]
    grids = image_grids(pixel_values, image_grid_thw, layout)
    rows = pixel_values.split([t * h * w for t, h, w in grids])
    batches = {}
    for kind, listed in perturbations.items():
        seeds = [view_seed(run_seed, policy_version, each, kind) for each in distinct]
        changed = {}  # the patches of each view that differs from its anchor
        for digest, anchor, view in zip(
            distinct, anchors, make_views(anchors, listed, seeds)
        ):
            if (view - anchor).abs().max().item() >= _UNCHANGED_BELOW:
                patches = patchify(normalize([view], layout), layout)
                changed[digest] = patches.to(pixel_values)
        perturbed = [changed.get(digest, own) for digest, own in zip(digests, rows)]
        batches[kind] = ViewBatch(
            pixel_values=torch.cat(perturbed) if perturbed else pixel_values.clone(),
            unchanged=torch.tensor(
                [digest not in changed for digest in digests],
                dtype=torch.bool,
                device=pixel_values.device,
            ),
        )
    return batches
