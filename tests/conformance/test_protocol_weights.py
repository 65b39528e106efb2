"""Pause, partial responses, continuation, and new weights in between.

What AReaL does at every weight update: `/pause_generation` (all requests are answered
with what they have), `/update_weights_from_disk` or, in parts,
`/update_weights_from_distributed`, `/continue_generation`, and each interrupted request
is sent again, prompt and partial response. What a server remembers of prompts and
images must not outlive the weights. Not covered: NCCL and LoRA adapters.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.conformance.protocol import BACKEND, Reply, Server

pytestmark = [pytest.mark.sglang, pytest.mark.slow]

# Time for a paused server to answer what it must, or to wrongly answer what must wait.
GRACE_SECONDS = 3.0
TRIES = 8  # at catching requests half-way
N_REQUESTS = 4


def pause(server: Server) -> None:
    assert server.send(BACKEND.get_pause_request())[0] == 200


def resume(server: Server) -> None:
    assert server.send(BACKEND.get_resume_request())[0] == 200


@pytest.fixture(autouse=True)
def running_afterwards(server, healthy_afterwards):
    """A failed test must not leave the server paused."""
    yield
    resume(server)


@pytest.fixture(scope="module")
def long(server) -> int:
    """Response tokens that take long enough to be interrupted."""
    return min(server.info["max_total_num_tokens"] // N_REQUESTS, 230) - 20


@pytest.fixture(scope="module")
def other_weights(server, tmp_path_factory):
    """Makes a folder of weights that differ in the parameters whose name holds a word
    (`.visual.` or `.language_model.`), and the model."""

    def make(part: str):
        folder = tmp_path_factory.mktemp("weights") / "other"
        model = server.load(server.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if part in name and name.endswith("down_proj.weight"):
                    parameter.mul_(0.7)
        model.save_pretrained(folder)
        server.processor.save_pretrained(folder)
        return folder, model

    return functools.cache(make)


@pytest.fixture(params=["disk", "wire"])
def way(request, server):
    """By which new weights come."""
    if request.param == "wire" and torch.cuda.is_available():
        pytest.skip("NCCL wants a GPU of its own for each process")
    return request.param


@pytest.fixture
def old_weights_afterwards(server):
    yield
    resume(server)
    assert server.load_weights(server.model)[0] == 200


def closer(right: torch.Tensor, wrong: torch.Tensor) -> bool:
    """Whether distances from the right weights are less than from the wrong ones."""
    return bool(right.mean() < wrong.mean())


def interrupted(server: Server, prompts, length: int) -> list[Reply]:
    """Greedy replies, some cut off half-way by a pause; the server stays paused."""
    delay = 1.0
    for _ in range(TRIES):
        with ThreadPoolExecutor(len(prompts)) as pool:
            futures = [
                pool.submit(
                    server.generate,
                    prompt,
                    greedy=True,
                    max_new_tokens=length,
                    ignore_eos=True,
                )
                for prompt in prompts
            ]
            time.sleep(delay)
            pause(server)
            replies = [future.result(timeout=GRACE_SECONDS * 10) for future in futures]
        if all(reply.reason == "length" for reply in replies):
            delay /= 2
        elif all(len(reply.tokens) == 0 for reply in replies):
            delay *= 1.5
        else:
            return replies
        resume(server)
    raise AssertionError("no request was caught half-way")


def test_pause_answers_with_the_part_there_is(server, long):
    prompts = [server.triangle(k) for k in range(N_REQUESTS)]
    replies = interrupted(server, prompts, long)
    cut = [reply for reply in replies if reply.reason != "length"]
    assert cut and {reply.reason for reply in cut} == {"abort"}
    for prompt, reply in zip(prompts, replies, strict=True):
        assert len(reply.tokens) == len(reply.logprobs)
        # The last token may be there when the abort comes.
        assert len(reply.tokens) <= long
        if reply.tokens and not server.vision_ids() & set(reply.tokens):
            server.check_logprobs(prompt, reply)


def test_nothing_is_generated_while_paused(server):
    pause(server)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.generate, server.triangle(0), greedy=True)
        time.sleep(GRACE_SECONDS)
        assert not future.done()
        resume(server)
        assert future.result(timeout=60).reason in ("stop", "length")


def test_a_continued_response_is_the_uninterrupted_one(server):
    prompt = server.triangle(2)
    whole = server.generate(prompt, greedy=True)
    assert not server.vision_ids() & set(whole.tokens), "choose another problem"
    for cut in (1, len(whole.tokens) // 2, len(whole.tokens) - 1):
        start = whole.tokens[:cut]
        rest = server.generate(
            prompt, start, greedy=True, max_new_tokens=len(whole.tokens) - cut
        )
        server.check_greedy(prompt, start + rest.tokens)
        server.check_logprobs(prompt, rest, before=start)


@pytest.mark.parametrize("part", [".language_model.", ".visual."])
def test_new_weights_give_new_logprobs(
    server, other_weights, old_weights_afterwards, part, way
):
    """Also of a group that was asked before, prompt and image: SGLang itself goes on
    seeing the image through the old vision tower."""
    folder, model = other_weights(part)
    group = [server.triangle(0)] * N_REQUESTS
    for prompt, reply in zip(group, server.generate_all(group), strict=True):
        server.check_logprobs(prompt, reply)
    server.update(way, folder)
    for prompt, after in zip(group, server.generate_all(group), strict=True):
        server.check_logprobs(prompt, after, model=model)
        assert closer(server.off(prompt, after, model=model), server.off(prompt, after))
    server.update(way, server.model)
    for prompt, reply in zip(group, server.generate_all(group), strict=True):
        server.check_logprobs(prompt, reply)


@pytest.mark.parametrize("part", [".language_model.", ".visual."])
def test_an_update_in_the_middle_of_responses(
    server, other_weights, long, old_weights_afterwards, part, way
):
    """Tokens before it are of the old weights, tokens after it of the new ones: the
    versions that AReaL stamps on them would else be wrong. Two groups of two."""
    folder, new = other_weights(part)
    prompts = [server.triangle(k // 2) for k in range(N_REQUESTS)]
    replies = interrupted(server, prompts, long)
    server.update(way, folder)
    resume(server)
    usable = [
        (prompt, reply)
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.tokens and not server.vision_ids() & set(reply.tokens)
    ]
    assert usable, "every response has a vision token: choose other problems"
    for prompt, reply in usable:
        server.check_logprobs(prompt, reply)
        how = {"before": reply.tokens}
        rest = server.generate(prompt, reply.tokens, greedy=True, max_new_tokens=8)
        server.check_logprobs(prompt, rest, model=new, **how)
        assert closer(server.off(prompt, reply), server.off(prompt, reply, model=new))
        assert closer(
            server.off(prompt, rest, model=new, **how), server.off(prompt, rest, **how)
        )


def test_an_update_without_weights_is_refused_and_changes_nothing(server, tmp_path):
    prompt = server.triangle(0)
    before = server.generate(prompt, greedy=True)
    status, answer = server.load_weights(tmp_path / "nowhere")
    assert status >= 400 and answer["success"] is False
    after = server.generate(prompt, greedy=True)
    assert after.tokens == before.tokens
    server.check_logprobs(prompt, after)
