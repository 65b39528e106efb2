"""The batched sampler against stock transformers, with a committed checkpoint."""

import pytest
import torch
from transformers import AutoProcessor

from areal_cppo.tasks.model import build_model, load_model, response_logits
from areal_cppo.tasks.pixels import image_grid
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.sampling import (
    evaluate,
    problem_pixels,
    sample,
    score_responses,
)
from areal_cppo.tasks.tokenizer import PROMPT_IDS, decode, encode


@pytest.fixture(scope="module")
def model():
    return load_model(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def problems():
    return [TRIANGLES.make_problem(0, i, "held_out") for i in range(16)]


def test_build_model_depends_on_its_seed_only():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = build_model(4)
    assert torch.equal(torch.rand(3), expected)
    second, other = build_model(4), build_model(5)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def stock_inputs(problems):
    """Prompts through the stock processor, as AReaL makes them."""
    processor = AutoProcessor.from_pretrained(TRIANGLES.checkpoint)
    prompt = "<|vision_start|><|image_pad|><|vision_end|>P?"
    return processor(
        images=[problem.image for problem in problems],
        text=[prompt] * len(problems),
        return_tensors="pt",
    )


def test_logits_equal_the_stock_forward(model, problems):
    some = problems[:4]
    texts = ["<think>AB=7 BC=1;", "<think>CA=1 ", "\\boxed{15}<eos>", "P?"]
    response_ids = encode(texts)
    inputs = stock_inputs(some)
    ids = torch.cat([inputs["input_ids"], response_ids], dim=1)
    kinds = torch.nn.functional.pad(
        inputs["mm_token_type_ids"], (0, response_ids.shape[1])
    )
    with torch.no_grad():
        stock = model(
            input_ids=ids,
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=kinds,
        ).logits[:, len(PROMPT_IDS) - 1 : -1]
        ours = response_logits(model, problem_pixels(some), response_ids)
    assert ours.shape == (4, response_ids.shape[1], 29)
    scale = stock.abs().max()  # about 15: float32 rounds sums of it at 1e-6
    torch.testing.assert_close(ours / scale, stock / scale, rtol=0, atol=5e-6)


def test_greedy_generation_equals_the_stock_one(model, problems):
    some = problems[:6]
    stock = model.generate(**stock_inputs(some), max_new_tokens=40, do_sample=False)[
        :, len(PROMPT_IDS) :
    ]
    ours = sample(model, problem_pixels(some), temperature=0).ids
    assert decode(ours) == decode(stock)


def test_image_grid_is_a_tensor_the_tower_takes(model, problems):
    features = model.model.visual(problem_pixels(problems[:2]), grid_thw=image_grid(2))
    assert features.pooler_output.shape == (18, 128)


def test_sampling_follows_its_generator(model, problems):
    pixels = problem_pixels(problems[:8])

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(model, pixels, samples=4, generator=generator).ids

    first, second, other = draw(0), draw(0), draw(1)
    assert first.shape[0] == 32
    assert torch.equal(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_nothing_but_pad_follows_the_end(model, problems):
    pixels = problem_pixels(problems[:16])
    generator = torch.Generator().manual_seed(0)
    for row in sample(model, pixels, generator=generator).ids.tolist():
        if 1 in row:
            assert set(row[row.index(1) + 1 :]) <= {0}


def test_samples_of_one_picture_are_neighbours(model, problems):
    pixels = problem_pixels(problems[:3])
    alone = sample(model, pixels, temperature=0).ids
    repeated = sample(model, pixels, samples=2, temperature=0).ids
    assert torch.equal(repeated, alone.repeat_interleave(2, dim=0))


def test_length_limit(model, problems):
    short = sample(model, problem_pixels(problems[:2]), max_new_tokens=5).ids
    assert short.shape == (2, 5)
    assert not score_responses(short, problems[:2])[0].format_ok


def test_negative_temperature_is_refused(model, problems):
    with pytest.raises(ValueError, match="temperature"):
        sample(model, problem_pixels(problems[:1]), temperature=-1)


def test_no_problems_are_refused(model):
    with pytest.raises(ValueError, match="at least one"):
        evaluate(model, [])
