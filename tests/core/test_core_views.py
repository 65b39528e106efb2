"""Views: seeds, one draw per image, the route through pixel_values, groups.

Covers determinism, differences between seeds, versions, kinds and images, equality
within a group, the untouched global random state and unchanged images. The effect of
each perturbation is in test_core_perturbations.py.
"""

import random

import pytest
import torch

from areal_cppo.core import (
    CPLConfig,
    PatchLayout,
    Perturbation,
    denormalize,
    image_digest,
    make_views,
    normalize,
    parse_perturbations,
    patchify,
    perturb_pixel_values,
    unpatchify,
    view_seed,
)

LAYOUT = PatchLayout(patch_size=7)
CONFIG = CPLConfig()
POSITIVE = parse_perturbations(CONFIG.views.positive)
NEGATIVE = parse_perturbations(CONFIG.views.negative)
GRIDS = [(2, 4), (6, 2), (4, 4)]


def batch(dtype=torch.float32, order=(0, 1, 2)):
    """Three images of different content and size, in the given order."""
    images = []
    for index in range(3):
        generator = torch.Generator().manual_seed(index)
        height, width = (7 * side for side in GRIDS[index])
        images.append(torch.rand(3, height, width, generator=generator))
    grid = torch.tensor([[1, *GRIDS[index]] for index in order])
    chosen = normalize([images[index] for index in order], LAYOUT)
    return patchify(chosen, LAYOUT).to(dtype), grid


def views(
    perturbations, order=(0, 1, 2), dtype=torch.float32, kind="negative", seed=1, v=2
):
    return perturb_pixel_values(
        *batch(dtype, order),
        LAYOUT,
        perturbations,
        kind=kind,
        run_seed=seed,
        policy_version=v,
    )


def test_digest_depends_on_content_and_shape_only():
    image = torch.rand(3, 4, 6)
    strided = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert image_digest(image) == image_digest(strided) == image_digest(image.clone())
    assert image_digest(image) != image_digest(image.view(3, 6, 4))
    other = image.clone()
    other[2, 3, 5] += 1e-6
    assert image_digest(image) != image_digest(other)
    assert isinstance(image_digest(image.bfloat16()), bytes)


def test_digest_and_seed_are_the_same_on_every_machine():
    """Pinned: a change of these values changes every run's views."""
    digest = image_digest(torch.arange(12.0).view(3, 2, 2))
    assert digest.hex() == "91de3de2ff28f7ecb7fa757729ebb71e"
    assert view_seed(1, 2, digest, "negative") == 7792797086268034259


def test_seeds_differ_in_every_argument():
    seeds = {
        view_seed(run, version, digest, kind)
        for run in (0, 1, 12)
        for version in (0, 1, 2, 21)
        for digest in (b"a" * 16, b"b" * 16)
        for kind in ("positive", "negative")
    }
    assert len(seeds) == 3 * 4 * 2 * 2
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    with pytest.raises(ValueError, match="kind: expected one of positive, negative"):
        view_seed(0, 0, b"", "anchor")


class Marker(Perturbation):
    """A perturbation that fills the image with a constant."""

    name = "marker"

    def __init__(self, value):
        super().__init__()
        object.__setattr__(self, "value", value)

    def apply(self, image, generator):
        return torch.full_like(image, self.value)


def test_one_perturbation_is_drawn_uniformly():
    markers = [Marker(value) for value in (0.0, 0.25, 0.5, 0.75)]
    images = [torch.ones(3, 2, 2)] * 2000
    seeds = [view_seed(0, 0, str(i).encode(), "positive") for i in range(2000)]
    drawn = torch.stack(make_views(images, markers, seeds))[:, 0, 0, 0]
    for marker in markers:
        # 500 expected; the standard deviation is 19.
        assert abs((drawn == marker.value).sum().item() - 500) < 100


def test_make_views_depends_on_the_seed_alone():
    image = torch.rand(3, 47, 31)
    first, second, third = make_views([image] * 3, NEGATIVE, [5, 6, 5])
    assert torch.equal(first, third) and not torch.equal(first, second)
    assert torch.equal(make_views([image], NEGATIVE, [6])[0], second)


def test_make_views_refusals():
    with pytest.raises(ValueError, match="perturbations: expected at least one"):
        make_views([], (), [])
    with pytest.raises(ValueError, match="seeds: expected 1, one per image, found 2"):
        make_views([torch.rand(3, 4, 4)], NEGATIVE, [1, 2])


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    every = parse_perturbations(
        [*CONFIG.views.positive, *CONFIG.views.negative]
        + [{"name": name} for name in ("black_squares", "blank", "noise")]
    )
    for perturbation in every:
        one = views((perturbation,))
        torch.rand(7)  # another global state must not matter
        assert torch.equal(one.pixel_values, views((perturbation,)).pixel_values)
        torch.set_rng_state(before[0])
        views((perturbation,))
        assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("perturbations", [POSITIVE, NEGATIVE], ids=["pos", "neg"])
def test_views_keep_shape_dtype_and_range(perturbations, dtype):
    anchor, grid = batch(dtype)
    view = views(perturbations, dtype=dtype)
    assert view.pixel_values.shape == anchor.shape
    assert view.pixel_values.dtype == dtype
    assert view.unchanged.shape == (3,) and view.unchanged.dtype == torch.bool
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for image in denormalize(unpatchify(view.pixel_values, grid, LAYOUT), LAYOUT):
        assert image.min() >= -tolerance and image.max() <= 1 + tolerance
    assert torch.equal(anchor, batch(dtype)[0]), "the anchor was changed in place"


def test_the_route_equals_each_step_by_hand():
    anchor, grid = batch()
    images = unpatchify(anchor, grid, LAYOUT)
    seeds = [view_seed(1, 2, image_digest(image), "negative") for image in images]
    clean = [image.clamp(0, 1) for image in denormalize(images, LAYOUT)]
    by_hand = normalize(make_views(clean, NEGATIVE, seeds), LAYOUT)
    assert torch.equal(views(NEGATIVE).pixel_values, patchify(by_hand, LAYOUT))
    assert not views(NEGATIVE).unchanged.any()


def test_views_differ_between_seeds_versions_and_kinds():
    base = views(NEGATIVE).pixel_values
    assert torch.equal(base, views(NEGATIVE).pixel_values)
    for other in ({"seed": 2}, {"v": 3}, {"kind": "positive"}):
        assert not torch.equal(base, views(NEGATIVE, **other).pixel_values), other


def test_a_view_does_not_depend_on_its_neighbours():
    anchor, grid = batch()
    sizes = grid.prod(1).tolist()
    whole = views(NEGATIVE).pixel_values.split(sizes)
    reordered = views(NEGATIVE, order=(2, 0)).pixel_values.split([sizes[2], sizes[0]])
    assert torch.equal(reordered[0], whole[2]) and torch.equal(reordered[1], whole[0])


def test_a_group_shares_its_view_and_it_is_computed_once(monkeypatch):
    calls = []
    apply = Marker.apply
    monkeypatch.setattr(
        Marker, "apply", lambda self, *args: calls.append(1) or apply(self, *args)
    )
    view = views((Marker(0.3),), order=(0, 1, 0, 0, 1))
    assert len(calls) == 2
    sizes = [8, 12, 8, 8, 12]
    rows = views(NEGATIVE, order=(0, 1, 0, 0, 1)).pixel_values.split(sizes)
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[0], rows[3])
    assert torch.equal(rows[1], rows[4])
    assert view.unchanged.tolist() == [False] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unchanged_images_come_back_bitwise_and_are_reported(dtype):
    anchor, _ = batch(dtype)
    for spec in (
        {"name": "noise", "probability": 0.0},
        {"name": "rotation", "degrees": 0.0},  # equal up to interpolation's rounding
    ):
        view = views(parse_perturbations([spec]), dtype=dtype)
        assert view.unchanged.all()
        assert torch.equal(view.pixel_values, anchor)


def test_some_unchanged_images_among_changed_ones():
    """The published perspective is applied every other time."""
    half = parse_perturbations([{"name": "noise", "probability": 0.5}])
    anchor, grid = batch()
    seen = set()
    for version in range(12):
        view = views(half, v=version)
        parts = zip(
            view.pixel_values.split(grid.prod(1).tolist()),
            anchor.split(grid.prod(1).tolist()),
            view.unchanged.tolist(),
        )
        for mine, original, unchanged in parts:
            assert torch.equal(mine, original) == unchanged
            seen.add(unchanged)
    assert seen == {True, False}


def test_unchanged_means_less_than_half_an_eight_bit_step():
    grey = normalize([torch.full((3, 14, 14), 0.5)], LAYOUT)
    grid = torch.tensor([[1, 2, 2]])
    for shift, unchanged in ((0.4 / 255, True), (0.6 / 255, False)):
        view = perturb_pixel_values(
            patchify(grey, LAYOUT),
            grid,
            LAYOUT,
            (Marker(0.5 + shift),),
            kind="negative",
            run_seed=0,
            policy_version=0,
        )
        assert view.unchanged.tolist() == [unchanged]


def test_a_blank_image_cannot_be_blanked():
    """A negative view that equals its anchor is reported, not passed off."""
    grid = torch.tensor([[1, 2, 2]])
    pixels = patchify(normalize([torch.full((3, 14, 14), 0.2)], LAYOUT), LAYOUT)
    view = perturb_pixel_values(
        pixels,
        grid,
        LAYOUT,
        parse_perturbations([{"name": "blank"}]),
        kind="negative",
        run_seed=0,
        policy_version=0,
    )
    assert view.unchanged.tolist() == [True]


def test_no_images_and_no_gradient():
    empty = perturb_pixel_values(
        torch.zeros(0, LAYOUT.patch_features),
        torch.zeros(0, 3, dtype=torch.long),
        LAYOUT,
        NEGATIVE,
        kind="negative",
        run_seed=0,
        policy_version=0,
    )
    assert empty.pixel_values.shape == (0, LAYOUT.patch_features)
    assert empty.unchanged.shape == (0,) and empty.unchanged.dtype == torch.bool
    anchor, grid = batch()
    view = perturb_pixel_values(
        anchor.requires_grad_(),
        grid,
        LAYOUT,
        NEGATIVE,
        kind="negative",
        run_seed=0,
        policy_version=0,
    )
    assert not view.pixel_values.requires_grad
