"""Patch layout as properties: any layout, any number of images of any sizes.

Covers both inverses and an independent loop over patches that spells out the order of
the Qwen processors. Their own output and refusals are in test_core_patches.py.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.core import PatchLayout, denormalize, normalize, patchify, unpatchify


@st.composite
def batches(draw):
    """A layout, and images whose every pixel has a value of its own."""
    channels = draw(st.integers(1, 4))
    layout = PatchLayout(
        patch_size=draw(st.integers(1, 16)),
        temporal_patch_size=draw(st.integers(1, 3)),
        merge_size=draw(st.integers(1, 3)),
        channels=channels,
        image_mean=tuple(draw(st.floats(-1, 1)) for _ in range(channels)),
        image_std=tuple(draw(st.floats(0.1, 2)) for _ in range(channels)),
    )
    tokens = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=4))
    side = layout.patch_size * layout.merge_size
    images, start = [], 0
    for high, wide in tokens:
        shape = (channels, high * side, wide * side)
        number = channels * high * wide * side**2
        # Exact in fp32 up to 2^24; at most 4 * 100 * 48^2 = 9e5 pixels here.
        images.append(torch.arange(start, start + number).float().view(shape))
        start += number
    grid = torch.tensor(
        [[1, h * layout.merge_size, w * layout.merge_size] for h, w in tokens]
    ).view(-1, 3)
    return layout, images, grid


def naive(images, layout):
    """Reference: patch by patch, in the order in which the Qwen processors list them.

    Token rows, token columns, within a token its patch rows and patch columns; a patch
    is channel by channel, each repeated along time, each row by row of pixels.
    """
    size, merge = layout.patch_size, layout.merge_size
    listed = []
    for image in images:
        _, height, width = image.shape
        for token_top in range(0, height, size * merge):
            for token_left in range(0, width, size * merge):
                for top in range(token_top, token_top + size * merge, size):
                    for left in range(token_left, token_left + size * merge, size):
                        patch = []
                        for channel in image:
                            for _ in range(layout.temporal_patch_size):
                                for y in range(top, top + size):
                                    patch.append(channel[y, left : left + size])
                        listed.append(torch.cat(patch))
    if not listed:
        return torch.zeros(0, layout.patch_features)
    return torch.stack(listed)


@settings(max_examples=60)
@given(batches())
def test_the_order_is_that_of_the_processors(batch):
    layout, images, grid = batch
    expected = naive(images, layout)
    assert expected.shape == (int(grid.prod(1).sum()), layout.patch_features)
    assert torch.equal(patchify(images, layout), expected)


@settings(max_examples=100)
@given(batches(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_both_are_the_others_inverse(batch, dtype):
    layout, images, grid = batch
    images = [image.to(dtype) for image in images]
    pixel_values = patchify(images, layout)
    again = unpatchify(pixel_values, grid, layout)
    assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
    assert torch.equal(patchify(again, layout), pixel_values)


@settings(max_examples=60)
@given(batches(), st.randoms(use_true_random=False))
def test_images_do_not_affect_each_other(batch, random):
    """In any order, each image has the patches that it has alone."""
    layout, images, grid = batch
    order = list(range(len(images)))
    random.shuffle(order)
    alone = [patchify([images[i]], layout) for i in order]
    together = patchify([images[i] for i in order], layout)
    empty = torch.zeros(0, layout.patch_features)
    assert torch.equal(together, torch.cat([empty, *alone]))
    again = unpatchify(together, grid[order], layout)
    assert all(torch.equal(images[i], image) for i, image in zip(order, again))


@settings(max_examples=60)
@given(batches())
def test_normalisation_is_undone_channel_by_channel(batch):
    layout, images, _ = batch
    small = [image / 2**20 for image in images]
    for image, normalized, back in zip(
        small,
        normalize(small, layout),
        denormalize(normalize(small, layout), layout),
    ):
        for c, (mean, std) in enumerate(zip(layout.image_mean, layout.image_std)):
            torch.testing.assert_close(normalized[c], (image[c] - mean) / std)
        torch.testing.assert_close(back, image, atol=1e-6, rtol=0)
