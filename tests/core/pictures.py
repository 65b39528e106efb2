"""Small pictures, and one perturbation of them."""

import torch

from areal_cppo.core import parse_perturbations

SHAPE = (3, 47, 31)


def perturb(image, name, seed=0, **parameters):
    (perturbation,) = parse_perturbations([{"name": name, **parameters}])
    before = image.clone()
    view = perturbation(image, torch.Generator().manual_seed(seed))
    assert torch.equal(image, before), "the image was changed in place"
    return view


def random_image(shape=SHAPE, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def ramp(height, width, axis):
    """A grey image that rises from 0 to 1 along one axis."""
    values = torch.linspace(0, 1, (height, width)[axis])
    image = values[:, None] if axis == 0 else values[None, :]
    return image.expand(3, height, width).clone()
