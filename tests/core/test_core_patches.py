"""Patch layout: exact inverses of the real processors' patches, and refusals.

Covers transformers' Qwen2-VL processor (also Qwen2.5-VL's) and the same class as
Qwen3-VL configures it, over odd image sizes and several images. Does not cover videos,
which are refused, nor the resize, which stays the processor's.
"""

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
)

from areal_cppo.core import PatchLayout, denormalize, normalize, patchify, unpatchify

PROCESSORS = {
    "qwen2-vl": {},
    "qwen3-vl": {
        "patch_size": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "odd": {"patch_size": 5, "merge_size": 3, "temporal_patch_size": 3},
}
SIZES = [(47, 31), (84, 84), (123, 31), (29, 200)]


def random_image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        256, (height, width, 3), generator=generator, dtype=torch.uint8
    )
    return Image.fromarray(pixels.numpy())


def processed(processor, images):
    batch = processor(images=images, return_tensors="pt")
    layout = PatchLayout.from_image_processor(processor)
    return batch["pixel_values"], batch["image_grid_thw"], layout


@pytest.fixture(params=PROCESSORS)
def processor(request):
    return Qwen2VLImageProcessor(**PROCESSORS[request.param], min_pixels=900)


def test_round_trip_of_the_real_processor_is_bitwise(processor):
    images = [random_image(*size, seed) for seed, size in enumerate(SIZES)]
    pixel_values, grid, layout = processed(processor, images)
    assert len({tuple(row) for row in grid.tolist()}) > 1
    unpatched = unpatchify(pixel_values, grid, layout)
    for image, (_, height, width) in zip(unpatched, grid.tolist()):
        side = layout.patch_size
        assert image.shape == (3, height * side, width * side)
    assert torch.equal(patchify(unpatched, layout), pixel_values)


def test_unpatchify_recovers_the_very_image(processor):
    """At a size that needs no resize the pixels come back in their places."""
    side = processor.patch_size * processor.merge_size
    image = random_image(2 * side, 3 * side)
    pixel_values, grid, layout = processed(processor, [image])
    (unpatched,) = unpatchify(pixel_values, grid, layout)
    original = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    original = original.view(2 * side, 3 * side, 3).permute(2, 0, 1) / 255
    (recovered,) = denormalize([unpatched], layout)
    torch.testing.assert_close(recovered, original, atol=1e-6, rtol=0)


def test_patchify_then_unpatchify_is_bitwise(processor):
    layout = PatchLayout.from_image_processor(processor)
    side = layout.patch_size * layout.merge_size
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        images = [
            torch.randn(3, h * side, w * side, generator=generator).to(dtype)
            for h, w in [(1, 1), (3, 2), (1, 5)]
        ]
        grid = torch.tensor(
            [
                [1, h * layout.merge_size, w * layout.merge_size]
                for h, w in [(1, 1), (3, 2), (1, 5)]
            ]
        )
        pixel_values = patchify(images, layout)
        assert pixel_values.dtype == dtype
        assert pixel_values.shape == (int(grid.prod(1).sum()), layout.patch_features)
        again = unpatchify(pixel_values, grid, layout)
        assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))


def test_patch_order_by_hand():
    """One 4 x 4 one-channel image, patches of one pixel, merged two by two."""
    layout = PatchLayout(1, 2, 2, 1, image_mean=(0.0,), image_std=(1.0,))
    image = torch.arange(16.0).view(1, 4, 4)
    order = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    expected = torch.tensor(order, dtype=torch.float32)[:, None].repeat(1, 2)
    assert torch.equal(patchify([image], layout), expected)


def test_unpatchify_returns_fresh_memory():
    layout = PatchLayout(patch_size=2)
    pixel_values = torch.zeros(4, layout.patch_features)
    (image,) = unpatchify(pixel_values, torch.tensor([[1, 2, 2]]), layout)
    image.fill_(1.0)
    assert (pixel_values == 0).all()


def test_no_images():
    layout = PatchLayout()
    empty = torch.zeros(0, layout.patch_features)
    assert unpatchify(empty, torch.zeros(0, 3, dtype=torch.long), layout) == []
    assert patchify([], layout).shape == (0, 1176)


def test_normalisation_is_undone_and_matches_by_hand():
    layout = PatchLayout(image_mean=(0.5, 0.4, 0.3), image_std=(0.5, 0.2, 0.1))
    image = torch.tensor([0.0, 0.6, 0.4]).view(3, 1, 1)
    (normalized,) = normalize([image], layout)
    torch.testing.assert_close(normalized.flatten(), torch.tensor([-1.0, 1.0, 1.0]))
    (back,) = denormalize([normalized.bfloat16()], layout)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, image, atol=1e-6, rtol=0)


def test_layout_from_processor_and_its_refusals():
    layout = PatchLayout.from_image_processor(Qwen2VLImageProcessor())
    assert layout == PatchLayout()
    with pytest.raises(ValueError, match="found object without patch_size"):
        PatchLayout.from_image_processor(object())
    with pytest.raises(ValueError, match="merge_size: expected an integer >= 1"):
        PatchLayout(merge_size=0)
    with pytest.raises(ValueError, match="image_mean: expected 3 numbers"):
        PatchLayout(image_mean=(0.5,))
    with pytest.raises(ValueError, match="image_std: expected numbers > 0"):
        PatchLayout(image_std=(0.5, 0.0, 0.5))


GOOD = torch.tensor([[1, 2, 4]])


@pytest.mark.parametrize(
    ("rows", "width", "grid", "message"),
    [
        (16, 24, [[2, 2, 4]], "expected t = 1 .* found t = 2 .a video"),
        (7, 24, [[1, 2, 4]], "expected 8 patches, .* found 7"),
        (16, 24, [[1, 2, 4]], "expected 8 patches, .* found 16"),
        (8, 25, [[1, 2, 4]], "expected shape .patches, 24., found .8, 25."),
        (8, 24, [[1, 1, 8]], "expected multiples of merge_size 2, found 1 x 8"),
        (0, 24, [[1, 0, 0]], "expected multiples of merge_size 2, found 0 x 0"),
        (8, 24, [1, 2, 4], "expected shape .images, 3., found .3."),
    ],
)
def test_unpatchify_refusals(rows, width, grid, message):
    layout = PatchLayout(patch_size=2)  # 3 * 2 * 2 * 2 = 24 features
    with pytest.raises(ValueError, match=message) as error:
        unpatchify(torch.zeros(rows, width), torch.tensor(grid), layout)
    assert "\n" not in str(error.value)


def test_two_different_frames_are_refused():
    layout = PatchLayout(patch_size=2)
    pixel_values = torch.zeros(8, 24).view(8, 3, 2, 2, 2)
    pixel_values[3, 0, 1, 0, 0] = 1.0
    with pytest.raises(ValueError, match="patches that differ along time"):
        unpatchify(pixel_values.view(8, 24), GOOD, layout)


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 4, 6), (1, 4, 4), (4, 4)])
def test_patchify_refusals(shape):
    with pytest.raises(ValueError, match="images: expected .3, H, W. with"):
        patchify([torch.zeros(shape)], PatchLayout(patch_size=2))
