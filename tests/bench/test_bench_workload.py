"""The batch: how much of everything there is, and that it is what AReaL returns.

Covers the knobs' checks, lengths, who is right, a group's item, and seeds.
"""

from __future__ import annotations

import pytest
import torch

from areal_cppo.bench.models import make_batch, model_config
from areal_cppo.bench.workload import SWEEPS, Workload, sweep
from areal_cppo.core import PatchLayout
from areal_cppo.errors import UserError


def test_the_default_is_geometry3k():
    workload = Workload()
    assert workload.image_tokens == 256
    assert workload.prompt_tokens == 408
    lengths = workload.response_lengths()
    assert len(lengths) == 16 and len(set(lengths)) > 8
    assert min(lengths) >= 300 and max(lengths) <= 500
    assert (
        lengths == Workload().response_lengths() != Workload(seed=2).response_lengths()
    )


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, [3, 4]),
        ({"positive": 0.0}, [0, 0]),
        ({"positive": 0.875}, [7, 7]),
        ({"groups": 5}, [3, 3, 3, 3, 4]),
        ({"group": 1, "positive": 0}, [0, 0]),
    ],
)
def test_right_responses_are_spread_over_groups(knobs, expected):
    assert Workload(**knobs).positives() == expected


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (
            {"image": 450},
            "--image: expected a multiple of 28 pixels, found 450; set 448",
        ),
        ({"image": 0}, "--image: expected an integer >= 28"),
        ({"group": 0}, "--group: expected an integer >= 1, found 0"),
        ({"positive": 1.5}, "--positive: expected a number in [0, 1], found 1.5"),
        ({"positive": 1.0}, "--positive: expected at most 0.875 with --group 8"),
        ({"group": 1}, "set less, or a larger --group"),
        ({"max_tokens": 900}, "--max-tokens: expected at least 908"),
        ({"max_tokens": 0}, "--max-tokens: expected an integer >= 1"),
    ],
)
def test_mistakes(knobs, words):
    with pytest.raises(UserError) as caught:
        Workload(**knobs)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_group():
    workload = Workload(image=56, prompt=5, response=8, group=4, groups=2, positive=0.5)
    config = model_config("tiny")
    batch = make_batch(workload, config, PatchLayout())
    assert len(batch) == 2
    lengths = workload.response_lengths()
    for item, own in zip(batch, (lengths[:4], lengths[4:])):
        ids = item["input_ids"]
        assert ids.shape == (4, workload.prompt_tokens + max(own))
        assert (ids[:, :11] == ids[0, :11]).all()  # image, its two marks, the prompt
        assert (ids[:, 1:5] == config.image_token_id).all()
        assert ((ids == config.image_token_id).sum(-1) == 4).all()
        assert (item["mm_token_type_ids"] == (ids == config.image_token_id)).all()
        assert item["attention_mask"].sum(-1).tolist() == [11 + n for n in own]
        assert item["loss_mask"].sum(-1).tolist() == own
        assert item["rewards"].tolist() == [1, 1, 0, 0]
        images = item["multi_modal_input"]
        assert images[0]["pixel_values"].shape == (16, 3 * 2 * 14 * 14)
        assert torch.equal(images[0]["pixel_values"], images[3]["pixel_values"])
        assert images[0]["image_grid_thw"].tolist() == [[1, 4, 4]]
    first, second = (item["multi_modal_input"][0]["pixel_values"] for item in batch)
    assert not torch.equal(first, second)
    again = make_batch(workload, config, PatchLayout())
    assert torch.equal(batch[1]["input_ids"], again[1]["input_ids"])


@pytest.mark.parametrize("knob", SWEEPS)
def test_every_sweep_fits_the_default(knob):
    workloads = sweep(knob, Workload(), quick=False)
    assert [getattr(each, knob) for each in workloads] == list(SWEEPS[knob])
    assert all(each.samples == 16 for each in workloads)


@pytest.mark.parametrize("name", ["small", "qwen2.5-vl-3b"])
def test_shapes_share_out_work_as_the_3b_model_does(name):
    """Multiply-adds of the head, a token's, and of the vision tower, a patch's with
    attention in an image of 1,024, as shares of those of the text model's layers."""
    config = model_config(name)
    text, vision = config.text_config, config.vision_config
    width, inner = text.hidden_size, vision.hidden_size
    key_width = width * text.num_key_value_heads // text.num_attention_heads
    layer = 2 * width * (width + key_width) + 3 * width * text.intermediate_size
    body = text.num_hidden_layers * layer
    assert text.tie_word_embeddings
    assert text.vocab_size * width / body == pytest.approx(0.11, abs=0.01)
    tower = vision.depth * (4 * inner**2 + 3 * inner * vision.intermediate_size)
    tower += (16 * inner**2 + 4 * inner * width) / 4  # four patches become a token
    whole = len(vision.fullatt_block_indexes)
    tower += 2 * inner * (1024 * whole + 64 * (vision.depth - whole))
    assert tower / body == pytest.approx(0.22, abs=0.02)


def test_no_such_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "broken.json").write_text("{")
    for name, words in (
        ("huge", "expected one of tiny, small, qwen2.5-vl-3b"),
        (str(tmp_path), "found 'llama'"),
        (str(tmp_path / "broken.json"), "broken.json"),
    ):
        with pytest.raises(UserError, match="--model: ") as caught:
            model_config(name)
        assert words in str(caught.value) and "\n" not in str(caught.value)
