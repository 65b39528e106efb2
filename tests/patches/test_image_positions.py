"""Rotary positions of still images, by hand. That trainer and server agree on them is
seen in tests/test_demo.py: the importance weight of fresh samples is 1."""

from __future__ import annotations

import pytest
import torch

from areal_cppo.patches.transformers import correct_image_positions
from areal_cppo.tasks.model import build_model

START, IMAGE, END, TEXT = 2, 4, 3, 9


@pytest.fixture(scope="module")
def rope_index():
    correct_image_positions()
    correct_image_positions()  # a second time changes nothing
    model = build_model(seed=0).model
    assert model.config.vision_config.tokens_per_second == 4

    def positions(rows: list[list[int]], grids: list[list[int]]) -> torch.Tensor:
        ids = torch.tensor(rows)
        kinds = (ids == IMAGE).int()
        return model.get_rope_index(ids, kinds, torch.tensor(grids))[0]

    return positions


def test_an_image_begins_where_the_text_stopped_on_all_three_axes(rope_index):
    """Text 0 1 2, an image of 2 x 2 merged tokens at 3, text from 3 + 2."""
    row = [TEXT, TEXT, START, *[IMAGE] * 4, END, TEXT]
    temporal, height, width = rope_index([row], [[1, 4, 4]])[:, 0].tolist()
    assert temporal == [0, 1, 2, 3, 3, 3, 3, 5, 6]
    assert height == [0, 1, 2, 3, 3, 4, 4, 5, 6]
    assert width == [0, 1, 2, 3, 4, 3, 4, 5, 6]


def test_more_images_than_columns(rope_index):
    """transformers 5.3 alone stops here: one time step per column."""
    rows = [[START, IMAGE, END, TEXT]] * 9
    together = rope_index(rows, [[1, 2, 2]] * 9)
    assert together.shape == (3, 9, 4)
    assert torch.equal(together[:, 8], rope_index(rows[:1], [[1, 2, 2]])[:, 0])
