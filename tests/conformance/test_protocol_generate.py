"""`/generate` with images and log-probs, as AReaL asks for it.

Covers one and several images, sizes, text alone, temperature, stop and length, greedy
decoding, many requests at once. Interruption and weight updates are in
test_protocol_weights.py, bad requests in test_protocol_bad_requests.py.
"""

from __future__ import annotations

import pytest
from PIL import Image

from areal_cppo.tasks.problems import TRIANGLES
from tests.conformance.protocol import Prompt

pytestmark = [pytest.mark.sglang, pytest.mark.slow]

N_CONCURRENT = 24
SIZES = [(84, 84), (112, 56), (56, 112)]  # pixels; the same area or less, another grid


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    image = TRIANGLES.make_problem(0, index, "held_out").image
    return image if image.size == size else image.resize(size)


def test_health(server):
    assert server.request("/health", method="GET")[0] == 200


@pytest.mark.parametrize("index", range(3))
def test_sampled_logprobs_are_those_of_transformers(server, index):
    prompt = server.triangle(index)
    reply = server.generate(prompt)
    assert reply.tokens == reply.raw["output_ids"]
    assert len(reply.tokens) == len(reply.logprobs) > 0
    assert not server.vision_ids() & set(reply.tokens), "choose another problem"
    server.check_logprobs(prompt, reply)


def test_logprobs_depend_on_the_image(server):
    """Else agreement with transformers would prove nothing about images."""
    seen = server.triangle(0)
    other = server.triangle(1)
    reply = server.generate(seen, greedy=True)
    wrong = Prompt(seen.ids, [], other.inputs)
    assert server.off(seen, reply).mean() < server.off(wrong, reply).mean()


@pytest.mark.parametrize("size", SIZES)
def test_sizes(server, size):
    prompt = server.prompt([picture(3, size)])
    server.check_logprobs(prompt, server.generate(prompt, greedy=True))


def test_several_images_in_order(server):
    images = [picture(k, size) for k, size in enumerate(SIZES)]
    prompt = server.prompt(images)
    reply = server.generate(prompt, greedy=True)
    server.check_logprobs(prompt, reply)
    swapped = server.prompt(images[::-1])
    assert server.off(prompt, reply).mean() < server.off(swapped, reply).mean()


def test_text_alone(server):
    prompt = server.prompt([])
    assert prompt.images == []
    server.check_logprobs(prompt, server.generate(prompt, greedy=True))


def test_logprobs_are_of_the_distribution_that_was_sampled(server):
    """AReaL divides the trainer's logits by the temperature too."""
    prompt = server.triangle(0)
    reply = server.generate(prompt, temperature=0.5)
    server.check_logprobs(prompt, reply, temperature=0.5)


def test_greedy_is_greedy_and_repeats(server):
    prompt = server.triangle(4)
    first = server.generate(prompt, greedy=True)
    server.check_greedy(prompt, first.tokens)
    again = server.generate(prompt, greedy=True)
    assert again.tokens == first.tokens
    assert again.logprobs == pytest.approx(first.logprobs, abs=server.tolerance.largest)


def test_samples_differ(server):
    replies = server.generate_all([server.triangle(5)] * 8, temperature=1.0)
    assert len({tuple(reply.tokens) for reply in replies}) > 1


def test_the_end_of_the_response_is_kept(server):
    """The stop token is part of the response: it has a log-prob and is trained on."""
    prompt = server.triangle(0)
    whole = server.generate(prompt, greedy=True, max_new_tokens=12).tokens
    stop = whole[6]
    reply = server.generate(
        prompt, greedy=True, max_new_tokens=12, stop_token_ids=[stop]
    )
    assert reply.reason == "stop"
    assert reply.tokens == whole[: whole.index(stop) + 1]
    assert len(reply.logprobs) == len(reply.tokens)
    finish = reply.raw["meta_info"]["finish_reason"]
    assert finish["matched"] == stop


def test_length(server):
    reply = server.generate(
        server.triangle(0), greedy=True, max_new_tokens=5, ignore_eos=True
    )
    assert reply.reason == "length"
    assert len(reply.tokens) == len(reply.logprobs) == 5


def test_one_token(server):
    reply = server.generate(server.triangle(0), greedy=True, max_new_tokens=1)
    assert len(reply.tokens) == 1


def test_many_at_once_do_not_mix(server):
    """Each response belongs to its own picture, whoever shared its batch."""
    prompts = [server.triangle(k) for k in range(N_CONCURRENT)]
    replies = server.generate_all(prompts, greedy=True)
    for prompt, reply in zip(prompts, replies, strict=True):
        server.check_logprobs(prompt, reply)
        server.check_greedy(prompt, reply.tokens)
