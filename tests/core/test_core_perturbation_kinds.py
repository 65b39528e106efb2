"""Each named perturbation: what it does to an image, checked by a closed form.

What holds for all of them is in test_core_perturbations.py.
"""

import pytest
import torch

from areal_cppo.core import PERTURBATIONS
from tests.core.pictures import SHAPE, perturb, ramp, random_image


def fixed_jitter(**factors):
    settings = {name: [1.0, 1.0] for name in ("brightness", "contrast", "saturation")}
    return settings | {name: [factor, factor] for name, factor in factors.items()}


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.3])
def test_color_jitter_by_hand(factor):
    image = random_image()
    luma = (torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1) * image).sum(0)
    expected = {
        "brightness": image * factor,
        "contrast": image * factor + luma.mean() * (1 - factor),
        "saturation": image * factor + luma * (1 - factor),
    }
    for name, value in expected.items():
        view = perturb(image, "color_jitter", **fixed_jitter(**{name: factor}))
        torch.testing.assert_close(view, value.clamp(0, 1), atol=2e-6, rtol=0)


def test_color_jitter_draws_within_its_ranges():
    """A grey image of value v turns into factor * v, whatever else is drawn."""
    grey = torch.full(SHAPE, 0.5)
    factors = torch.tensor(
        [perturb(grey, "color_jitter", seed)[0, 0, 0] / 0.5 for seed in range(200)]
    )
    assert factors.min() >= 0.2 and factors.max() <= 1.3
    assert factors.min() < 0.3 and factors.max() > 1.2


def test_color_jitter_varies_the_order():
    """Brightness clips before or after contrast: two results from fixed factors."""
    image = random_image()
    settings = fixed_jitter(brightness=3.0, contrast=0.3)
    views = {
        tuple(perturb(image, "color_jitter", seed, **settings)[:, 3, 5].tolist())
        for seed in range(20)
    }
    assert len(views) >= 2


def test_perspective_moves_corners_inwards_by_at_most_half_the_distortion():
    white = torch.ones(3, 100, 60)
    for seed in range(20):
        view = perturb(white, "perspective", seed, distortion=0.2)
        # 10 % of each side, and one pixel of interpolation.
        assert (view[:, 11:-11, 7:-7] > 0.999).all()
        assert (view < 0.5).any()
        strong = perturb(white, "perspective", seed, distortion=0.8)
        assert (strong < 0.5).sum() > (view < 0.5).sum()


def test_no_distortion_and_no_rotation_are_the_identity():
    image = random_image()
    for name, parameters in (
        ("perspective", {"distortion": 0.0}),
        ("rotation", {"degrees": 0.0}),
        ("gaussian_blur", {"kernel_size": 1}),
        ("zoom_crop", {"scale": [1.0, 1.0]}),
        ("color_jitter", fixed_jitter()),
    ):
        view = perturb(image, name, **parameters)
        torch.testing.assert_close(view, image, atol=1e-4, rtol=0)


def test_rotation_keeps_the_centre_and_turns_by_at_most_the_degrees():
    height = width = 101
    image = torch.zeros(3, height, width)
    image[:, 50, :] = 1.0  # a horizontal line through the centre
    angles = []
    for seed in range(40):
        view = perturb(image, "rotation", seed, degrees=10)
        assert view[0, 50, 50] > 0.9
        column = view[0, :, 90]  # 40 pixels right of the centre
        height_there = (column * torch.arange(101.0)).sum() / column.sum()
        angles.append(torch.rad2deg(torch.atan2(50 - height_there, torch.tensor(40.0))))
    angles = torch.stack(angles)
    assert angles.abs().max() < 10.5
    assert angles.min() < -6 and angles.max() > 6


def test_rotation_corners_are_black():
    white = torch.ones(3, 60, 60)
    views = [perturb(white, "rotation", seed, degrees=45) for seed in range(10)]
    assert min(view[:, 0, 0].max().item() for view in views) == 0.0


def test_gaussian_blur_of_a_point_is_the_kernel():
    image = torch.zeros(3, 9, 9)
    image[:, 4, 4] = 1.0
    view = perturb(image, "gaussian_blur", kernel_size=3, sigma=1.0)
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / 2)
    line = line / line.sum()
    torch.testing.assert_close(view[1, 3:6, 3:6], torch.outer(line, line))
    assert view.sum().item() == pytest.approx(3.0, abs=1e-5)


def test_strong_gaussian_blur_flattens_even_a_small_image():
    image = random_image((3, 28, 28))
    view = perturb(image, "gaussian_blur", kernel_size=101, sigma=25.0)
    assert view.std(dim=(1, 2)).max() < 0.1 * image.std()


@pytest.mark.parametrize("size", [(28, 28), (28, 112), (140, 28), (47, 31), (84, 56)])
def test_a_strong_blur_fits_images_smaller_than_its_kernel(size):
    """Against the separable convolution written as one matrix per axis."""
    image = random_image((3, *size))
    view = perturb(image, "gaussian_blur", kernel_size=41, sigma=10.0)
    matrices = []
    for length in size:
        matrix = torch.zeros(length, length)
        weights = torch.exp(-(torch.arange(-20.0, 21.0) ** 2) / (2 * 10.0**2))
        for pixel in range(length):
            for offset, weight in zip(range(-20, 21), weights / weights.sum()):
                matrix[pixel, min(max(pixel + offset, 0), length - 1)] += weight
        matrices.append(matrix)
    torch.testing.assert_close(
        view, matrices[0] @ image @ matrices[1].T, atol=1e-5, rtol=0
    )
    assert view.std(dim=(1, 2)).max() < 0.15 * image.std(), "details are left"


def test_noise_patches_change_a_plausible_share_of_pixels():
    image = torch.full((3, 200, 160), 0.5)
    for seed in range(10):
        view = perturb(image, "noise_patches", seed)
        changed = (view != image).any(dim=0)
        # 50 rectangles of 1 % on average: 1 - exp(-.5) = 39 % if they were spread
        # evenly; they stay inside the image and overlap.
        assert 0.25 < changed.float().mean() < 0.55
        assert view[:, changed].mean().item() == pytest.approx(0.5, abs=0.02)
        assert view[:, changed].std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_one_noise_patch_is_one_rectangle_inside_the_image():
    height, width = 200, 160
    image = torch.full((3, height, width), 2 / 3)
    for seed in range(30):
        view = perturb(image, "noise_patches", seed, count=1, side=[0.05, 0.15])
        changed = (view != image).any(dim=0)
        rows, columns = changed.any(1).sum().item(), changed.any(0).sum().item()
        assert changed.sum() == rows * columns, "not a filled rectangle"
        assert 10 <= rows <= 30 and 8 <= columns <= 24


def test_noise_patches_reach_every_border():
    image = torch.full((3, 20, 20), 2 / 3)
    view = perturb(image, "noise_patches", count=2000)
    assert (view != image).any(dim=0).all()


def test_a_noise_patch_of_the_whole_side_covers_everything():
    view = perturb(torch.full(SHAPE, 0.5), "noise_patches", count=1, side=[1, 1])
    assert (view != 0.5).any(dim=0).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_zoom_crop_narrows_the_range_of_a_ramp_to_its_scale(axis):
    image = ramp(101, 81, axis)
    starts = []
    for seed in range(30):
        view = perturb(image, "zoom_crop", seed, scale=[0.6, 0.7])
        spread = (view.max() - view.min()).item()
        assert 0.58 < spread < 0.71
        starts.append(view.min().item())
        steps = view.diff(dim=1 + axis)
        # Still a ramp: magnified, not cut or padded.
        torch.testing.assert_close(
            steps, steps.mean().expand_as(steps), atol=1e-5, rtol=0
        )
    assert min(starts) < 0.08 and max(starts) > 0.25  # the place varies


def test_zoom_crop_shows_what_was_there():
    image = ramp(100, 100, 1)
    image[1] = ramp(100, 100, 0)[0]
    view = perturb(image, "zoom_crop", 3, scale=[0.5, 0.5])
    spans = [view[channel].max() - view[channel].min() for channel in (0, 1)]
    torch.testing.assert_close(spans[0], spans[1])  # one scale for both sides


@pytest.mark.parametrize("coverage", [0.25, 0.8, 1.0])
def test_black_squares_cover_their_share(coverage):
    image = torch.full((3, 140, 70), 0.5)  # 10 x 5 squares
    view = perturb(image, "black_squares", coverage=coverage, square=14)
    black = view == 0
    assert ((view == 0.5) | black).all()
    assert black.float().mean().item() == pytest.approx(round(coverage * 50) / 50)
    cells = black[0].unflatten(0, (10, 14)).unflatten(2, (5, 14)).float()
    assert set(cells.mean(dim=(1, 3)).flatten().tolist()) <= {0.0, 1.0}


def test_blank_is_the_mean_colour():
    image = random_image()
    view = perturb(image, "blank")
    for channel in range(3):
        values = view[channel].unique()
        assert len(values) == 1
        assert values.item() == pytest.approx(image[channel].mean().item(), abs=1e-6)


def test_noise_keeps_nothing_of_the_image():
    view = perturb(torch.zeros(3, 100, 100), "noise")
    assert view.mean().item() == pytest.approx(0.5, abs=0.01)
    assert view.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert torch.equal(view, perturb(torch.ones(3, 100, 100), "noise"))


def test_strength_mixes_the_image_with_blank_or_noise():
    image = random_image()
    mean = image.mean(dim=(1, 2), keepdim=True)
    noise = perturb(image, "noise", seed=4)
    for strength in (0.05, 0.3, 1.0):
        faded = perturb(image, "blank", strength=strength)
        torch.testing.assert_close(faded, image + strength * (mean - image))
        mixed = perturb(image, "noise", seed=4, strength=strength)
        torch.testing.assert_close(mixed, image + strength * (noise - image))


def test_diffusion_noise_has_the_published_levels():
    """Shares of image and noise as NoisyRollout's code has them, by step."""
    grey, white = torch.full((3, 200, 200), 0.5), torch.full((3, 200, 200), 0.6)
    for steps, kept, added in ((0, 1.0, 0.0047), (100, 0.9983, 0.058)):
        view = perturb(grey, "diffusion_noise", steps=steps)
        assert view.mean().item() == pytest.approx(0.5 * kept, abs=1e-3)
        assert view.std().item() == pytest.approx(added, rel=0.02)
    # Where nothing is clamped, the noise is the same and the image counts by its share.
    for steps, kept in ((300, 0.981), (500, 0.863), (999, 0.285)):
        views = [
            perturb(each, "diffusion_noise", steps=steps) for each in (grey, white)
        ]
        free = torch.stack([(0 < view) & (view < 1) for view in views]).all(0)
        moved = (views[1] - views[0])[free]
        assert moved.mean().item() == pytest.approx(0.1 * kept, abs=1e-4)
        assert moved.std().item() < 1e-6


def test_what_can_fade_fades_by_its_strength():
    for name, field, value in (
        ("noise", "strength", 0.5),
        ("blank", "strength", 0.5),
        ("rotation", "degrees", 8.0),
        ("diffusion_noise", "steps", 500),
    ):
        kind = PERTURBATIONS[name](**{field: value}, probability=0.3)
        half = kind.faded(0.5)
        assert getattr(half, field) == value / 2 and half.probability == 0.3
        assert kind.faded(1.0) == kind
