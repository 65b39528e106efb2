"""Views as properties: what a view depends on, and what it does not.

Covers any order and repetition of images, seeds, versions, kinds and the global random
state, for random batches of images of different sizes. Single facts are in
test_core_views.py.
"""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.core import (
    PERTURBATIONS,
    CPLConfig,
    PatchLayout,
    normalize,
    parse_perturbations,
    patchify,
    perturb_pixel_values,
)

LAYOUT = PatchLayout(patch_size=7)
SIZES = [(28, 28), (28, 56), (42, 28), (14, 70), (28, 28)]  # the last: other pixels
LISTS = {
    "positive": parse_perturbations(CPLConfig().views.positive),
    "negative": parse_perturbations(CPLConfig().views.negative),
    "everything": parse_perturbations([{"name": name} for name in PERTURBATIONS]),
    "noise": parse_perturbations([{"name": "noise"}]),
}

numbers = st.integers(0, 2**31)
lists = st.sampled_from(sorted(LISTS))
picks = st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=6)


def picture(index):
    generator = torch.Generator().manual_seed(index)
    return torch.rand(3, *SIZES[index], generator=generator)


def views(picked, which="negative", seed=0, version=0, kind="negative"):
    """The views' patches, image by image."""
    images = [picture(index) for index in picked]
    grid = torch.tensor([[1, x.shape[1] // 7, x.shape[2] // 7] for x in images])
    batch = perturb_pixel_values(
        patchify(normalize(images, LAYOUT), LAYOUT),
        grid,
        LAYOUT,
        LISTS[which],
        kind=kind,
        run_seed=seed,
        policy_version=version,
    )
    return batch.pixel_values.split(grid.prod(1).tolist())


@settings(max_examples=30)
@given(picks, lists, numbers, numbers)
def test_a_view_depends_on_its_image_alone(picked, which, seed, version):
    """Whatever comes before, after or twice: as if the image were by itself."""
    together = views(picked, which, seed, version)
    for index, patches in zip(picked, together, strict=True):
        (alone,) = views([index], which, seed, version)
        assert torch.equal(patches, alone)


@settings(max_examples=30)
@given(picks, lists, numbers, numbers, st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(picked, which, seed, version, shuffler):
    order = list(range(len(picked)))
    shuffler.shuffle(order)
    first = views(picked, which, seed, version)
    second = views([picked[i] for i in order], which, seed, version)
    assert all(torch.equal(first[i], patches) for i, patches in zip(order, second))


@settings(max_examples=20)
@given(st.integers(0, len(SIZES) - 1), numbers, numbers, st.integers(1, 1000))
def test_steps_seeds_kinds_and_images_draw_anew(index, seed, version, other):
    """Noise everywhere: two draws that are one would show."""
    base = views([index], "noise", seed, version)[0]
    assert torch.equal(base, views([index, index], "noise", seed, version)[1])
    for change in (
        {"version": version + other},
        {"seed": seed + other},
        {"kind": "positive"},
    ):
        arguments = {"seed": seed, "version": version} | change
        assert not torch.equal(base, views([index], "noise", **arguments)[0]), change
    same_size = views([0, 4], "noise", seed, version)
    assert not torch.equal(*same_size), "two images share a draw"


@settings(max_examples=20)
@given(picks, lists, numbers, numbers, numbers)
def test_the_global_random_state_is_neither_read_nor_moved(
    picked, which, seed, version, elsewhere
):
    before = views(picked, which, seed, version)
    torch.manual_seed(elsewhere)
    random.seed(elsewhere)
    state = torch.get_rng_state(), random.getstate()
    after = views(picked, which, seed, version)
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
