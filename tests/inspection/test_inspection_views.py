"""Views to look at: the ones that training makes, at the size that it makes them.

Not covered: what each perturbation does (tests/core/test_core_perturbations.py).
"""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from areal_cppo.config.blocks import DataConfig
from areal_cppo.core import (
    PERTURBATIONS,
    PatchLayout,
    ViewsConfig,
    parse_perturbations,
    patchify,
    perturb_pixel_values,
)
from areal_cppo.data.prompts import PromptBuilder
from areal_cppo.errors import UserError
from areal_cppo.inspection.files import read_picture
from areal_cppo.inspection.picture_input import PictureInput, side_by_side
from areal_cppo.inspection.sheet import make_strips, strengths
from areal_cppo.inspection.views import Views, pictures
from areal_cppo.step.views import ViewMaker
from areal_cppo.tasks.problems import TRIANGLES
from tests.inspection.drawn import picture

LAYOUT = PatchLayout()
SEED, VERSION = 5, 3


def patches(*sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures of these heights and widths in units of a merged token."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 28 * h, 28 * w, generator=generator) for h, w in sizes]
    grid = torch.tensor([[1, 2 * h, 2 * w] for h, w in sizes])
    return patchify(images, LAYOUT), grid


def test_views_are_those_of_training():
    pixels, grid = patches((2, 3), (3, 2))
    views = Views.draw(pixels, grid, LAYOUT, ViewsConfig(), SEED, VERSION)
    item = {"pixel_values": pixels, "image_grid_thw": grid}
    make = ViewMaker(asdict(ViewsConfig()), LAYOUT, SEED)
    made = make(item, VERSION, torch.device("cpu"))
    assert torch.equal(views.pixels["anchor"], pixels)
    for kind in ("positive", "negative"):
        assert torch.equal(views.pixels[kind], made.pixel_values[kind])
        assert sum(views.unchanged[kind]) == made.unchanged[kind]


def test_views_say_what_was_drawn():
    """Each picture's own, whichever of the list it was."""
    pixels, grid = patches((2, 2), (2, 3), (3, 3), (1, 2))
    config = ViewsConfig(
        negative=[{"name": "blank"}, {"name": "black_squares", "coverage": 1.0}]
    )
    views = Views.draw(pixels, grid, LAYOUT, config, SEED)
    names = views.names("negative")
    assert set(names) == {"blank", "black_squares"}
    for name, image in zip(names, views.pictures("negative"), strict=True):
        (colour,) = {tuple(c) for c in np.asarray(image).reshape(-1, 3)}
        assert (colour == (0, 0, 0)) == (name == "black_squares")


def test_repeated_pictures_leave_their_names_open():
    pixels, grid = patches((2, 2))
    twice = Views.draw(
        torch.cat([pixels, pixels]), grid.repeat(2, 1), LAYOUT, ViewsConfig(), SEED
    )
    assert twice.names("negative") == []
    assert len(twice.pictures("negative")) == 2


@given(st.integers(1, 4), st.integers(1, 4))
def test_pictures_come_back_to_the_byte(height, width):
    image = torch.randint(0, 256, (3, 28 * height, 28 * width)) / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (LAYOUT.image_mean, LAYOUT.image_std)
    )
    pixels = patchify([(image - mean) / std], LAYOUT)
    grid = torch.tensor([[1, 2 * height, 2 * width]])
    (shown,) = pictures(pixels, grid, LAYOUT)
    expected = (image * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(shown), expected)


def test_each_strip_has_the_views_of_its_perturbation_alone():
    pixels, grid = patches((2, 3))
    config = ViewsConfig()
    strips = make_strips(pixels, grid, LAYOUT, config, draws=3, seed=SEED)
    named = [(strip.kind, strip.name) for strip in strips]
    assert named == [
        (kind, spec["name"])
        for kind in ("positive", "negative")
        for spec in getattr(config, kind)
    ]
    for strip in strips:
        (spec,) = (s for s in getattr(config, strip.kind) if s["name"] == strip.name)
        for version, draw in enumerate(strip.draws):
            view = perturb_pixel_values(
                *(pixels, grid, LAYOUT, parse_perturbations([spec])),
                kind=strip.kind,
                run_seed=SEED,
                policy_version=version,
            )
            (image,) = pictures(view.pixel_values, grid, LAYOUT)
            assert image.tobytes() == draw.image.tobytes()
            assert draw.unchanged == bool(view.unchanged)


def test_a_perturbation_that_is_never_applied_is_unchanged():
    pixels, grid = patches((2, 2))
    config = ViewsConfig(positive=[{"name": "rotation", "probability": 0.0}])
    strip = make_strips(pixels, grid, LAYOUT, config, draws=2, seed=SEED)[0]
    assert [draw.unchanged for draw in strip.draws] == [True, True]
    assert strip.settings == ["degrees 10", "probability 0"]


def test_strengths_in_words():
    (jitter,) = parse_perturbations([{"name": "color_jitter", "probability": 0.25}])
    assert strengths(jitter) == [
        "brightness 0.2 to 1.3",
        "contrast 0.2 to 1.8",
        "saturation 0.2 to 1.8",
        "probability 0.25",
    ]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_has_words(name):
    (perturbation,) = parse_perturbations([{"name": name}])
    words = strengths(perturbation)
    assert words and all(line.split()[-1].replace(".", "").isdigit() for line in words)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((84, 84), (84, 84)),
        ((100, 50), (112, 56)),  # whole tokens of 28 pixels
        ((10, 10), (56, 56)),  # at least 3,136 pixels
        ((3000, 1000), (1708, 560)),  # at most 1,003,520
    ],
)
def test_default_size_is_that_of_the_stock_processor(size, seen):
    source = PictureInput.default(None)
    pixels, grid = source.patches([picture(size)])
    (shown,) = pictures(pixels, grid, source.layout)
    assert shown.size == seen
    assert source.tokens(grid) == seen[0] * seen[1] // 28**2


def test_a_configuration_narrows_the_size():
    data = DataConfig(min_pixels=3136, max_pixels=50_176)
    source = PictureInput.default(data)
    pixels, grid = source.patches([picture((1000, 1000))])
    (shown,) = pictures(pixels, grid, source.layout)
    assert shown.size == (224, 224)


def test_a_model_brings_its_own_processor():
    source = PictureInput.of_model(TRIANGLES.checkpoint, None)
    assert source.layout.image_mean == (0.925,) * 3
    pixels, grid = source.patches([picture((800, 800))])
    assert grid.tolist() == [[1, 8, 8]]  # at most 112 x 112


def test_patches_are_those_of_the_workflows_processor():
    """Bit for bit, as a view's seed is made of the very bytes (AReaL's workflow calls
    `AutoProcessor.from_pretrained` with nothing else)."""
    processor = AutoProcessor.from_pretrained(TRIANGLES.checkpoint)
    inputs = processor(
        text=[PromptBuilder(processor, "").text("P?", 1)],
        images=[picture((100, 70))],
        return_tensors="pt",
    )
    pixels, grid = PictureInput.of_model(TRIANGLES.checkpoint, None).patches(
        [picture((100, 70))]
    )
    assert torch.equal(pixels, inputs["pixel_values"])
    assert torch.equal(grid, inputs["image_grid_thw"])


def test_long_and_thin_pictures_are_refused():
    with pytest.raises(UserError, match="image: expected a picture at most 200 times"):
        PictureInput.default(None).patches([picture((2000, 8))])


def test_files_that_are_no_pictures(tmp_path):
    with pytest.raises(UserError, match="image: expected an image file, found none"):
        read_picture(str(tmp_path / "none.png"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="image: expected a PNG, JPEG"):
        read_picture(str(tmp_path / "text.png"))


def test_side_by_side():
    joined = side_by_side([picture((30, 20)), picture((10, 40))])
    assert joined.size == (48, 40)
    assert joined.crop((0, 0, 30, 20)).tobytes() == picture((30, 20)).tobytes()
    assert joined.crop((38, 0, 48, 40)).tobytes() == picture((10, 40)).tobytes()
    one = Image.new("RGB", (3, 3))
    assert side_by_side([one]) is one
