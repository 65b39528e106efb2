"""What holds for every perturbation: shape, range, determinism, strength, probability.

Covers all of the registry on odd image sizes. What each does is in
test_core_perturbation_kinds.py; seeding, grouping and pixel_values are in
test_core_views.py; refusals of configured values in test_core_cpl.py.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.core import PERTURBATIONS
from tests.core.pictures import SHAPE, perturb, ramp, random_image


@pytest.mark.parametrize("shape", [SHAPE, (3, 28, 123), (3, 56, 56)])
@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_shape_range_determinism(name, shape):
    image = random_image(shape)
    for seed in range(5):
        view = perturb(image, name, seed)
        assert view.shape == image.shape and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1 and torch.isfinite(view).all()
        assert torch.equal(view, perturb(image, name, seed))
        assert (view - image).abs().max() > 1 / 255


# The sides that a Qwen-VL processor makes, and any from one token of 28 pixels on.
sides = st.integers(1, 6).map(lambda tokens: 28 * tokens) | st.integers(28, 150)


@settings(max_examples=25)
@given(sides, sides, st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_any_size_keeps_its_shape_and_range(name, height, width, seed):
    image = random_image((3, height, width), seed=1)
    view = perturb(image, name, seed)
    assert view.shape == image.shape and view.dtype == torch.float32
    assert torch.isfinite(view).all() and view.min() >= 0 and view.max() <= 1
    assert not torch.equal(view, image)


# For each perturbation: parameters of a weak and of a strong one.
STRENGTHS = {
    "color_jitter": [
        {name: factors for name in ("brightness", "contrast", "saturation")}
        for factors in ([0.9, 0.95], [0.2, 0.3])
    ],
    "perspective": [{"distortion": 0.02}, {"distortion": 0.8}],
    "rotation": [{"degrees": 0.5}, {"degrees": 90}],
    "gaussian_blur": [
        {"kernel_size": 3, "sigma": 0.3},
        {"kernel_size": 41, "sigma": 10.0},
    ],
    "noise_patches": [
        {"count": 2, "side": [0.02, 0.05]},
        {"count": 200, "side": [0.1, 0.3]},
    ],
    "zoom_crop": [{"scale": [0.95, 0.99]}, {"scale": [0.2, 0.3]}],
    "black_squares": [{"coverage": 0.1}, {"coverage": 1.0}],
    "blank": [{"strength": 0.1}, {"strength": 1.0}],
    "noise": [{"strength": 0.1}, {"strength": 1.0}],
    "diffusion_noise": [{"steps": 200}, {"steps": 999}],
}


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 84, 56)])
@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_every_perturbation_has_a_strength(name, shape):
    """More of it changes the image more: on a smooth picture, averaged over draws."""
    _, height, width = shape
    image = (ramp(height, width, 0) + ramp(height, width, 1)) / 2
    image[2] = 1 - image[2]
    declared = {field.name for field in dataclasses.fields(PERTURBATIONS[name])}
    changes = []
    for parameters in STRENGTHS[name]:
        assert set(parameters) <= declared - {"probability"}
        views = [perturb(image, name, seed, **parameters) for seed in range(10)]
        changes.append(sum((view - image).abs().mean().item() for view in views))
    assert changes[1] > 2 * changes[0] > 0


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_probability(name):
    image = random_image()
    assert torch.equal(perturb(image, name, probability=0.0), image)
    applied = sum(
        not torch.equal(perturb(image, name, seed, probability=0.5), image)
        for seed in range(100)
    )
    assert 30 <= applied <= 70  # the standard deviation is 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_gpu_and_cpu_agree(name):
    image = random_image()
    view = perturb(image.cuda(), name)
    assert view.is_cuda
    torch.testing.assert_close(view.cpu(), perturb(image, name), atol=1e-4, rtol=0)
