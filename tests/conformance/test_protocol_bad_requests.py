"""Requests that AReaL should never send: answered, and of no consequence.

What SGLang 0.5.10.post1 does not survive is not sent here: a token id outside the
vocabulary ends its scheduler, and the server with it (docs/evaluation.md).
"""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.sglang, pytest.mark.slow]

NO_IMAGE = "bm90IGFuIGltYWdl"  # base64 of "not an image"


@pytest.fixture(scope="module")
def request_body(server):
    return server.payload(server.triangle(0), greedy=True, max_new_tokens=4)


@pytest.fixture(autouse=True)
def same_answer_afterwards(server, request_body):
    """A bad request leaves nothing behind: a good one is answered as before."""
    _, before = server.request("/generate", request_body)
    yield
    status, after = server.request("/generate", request_body)
    assert status == 200
    assert after["output_ids"] == before["output_ids"]


def sampling(request_body: dict, **changes) -> dict:
    settings = request_body["sampling_params"] | changes
    return request_body | {"sampling_params": settings}


BAD = {
    "bad JSON": lambda body: b'{"input_ids": [1,',
    "nothing": lambda body: {},
    "a list": lambda body: [body],
    "ids that are text": lambda body: body | {"input_ids": "P?"},
    "an image that is none": lambda body: body | {"image_data": [NO_IMAGE]},
    "a sampling parameter that is none": lambda body: sampling(body, heat=1.0),
    "a negative temperature": lambda body: sampling(body, temperature=-1.0),
    "a negative length": lambda body: sampling(body, max_new_tokens=-1),
    "a prompt that is too long": lambda body: (
        body | {"input_ids": body["input_ids"] * (1_000_000 // len(body["input_ids"]))}
    ),
    "a response that is too long": lambda body: sampling(
        body, max_new_tokens=10_000_000
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_refused(server, request_body, kind):
    status, answer = server.request("/generate", BAD[kind](request_body))
    assert 400 <= status < 600, answer


def test_an_unknown_endpoint(server):
    assert server.request("/no_such_thing", {})[0] == 404


def without(body: dict, key: str) -> dict:
    return {name: value for name, value in body.items() if name != key}


# Refused by a server that looks; SGLang 0.5.10.post1 doesn't, and leaves out what is
# one too many. Both will do, but nothing in between.
SUPERFLUOUS = {
    "an unknown field": lambda body, words: (body | {"colour": "red"}, body),
    "an image without a placeholder": lambda body, words: (
        body | {"input_ids": words},
        without(body, "image_data") | {"input_ids": words},
    ),
    "more images than placeholders": lambda body, words: (
        body | {"image_data": body["image_data"] * 2},
        body,
    ),
}


@pytest.mark.parametrize("kind", SUPERFLUOUS)
def test_refused_or_left_out(server, request_body, kind):
    bad, good = SUPERFLUOUS[kind](request_body, server.prompt([]).ids)
    status, answer = server.request("/generate", bad)
    if status < 400:
        _, expected = server.request("/generate", good)
        assert answer["output_ids"] == expected["output_ids"]


def test_placeholders_without_an_image_are_answered(server, request_body):
    """With an error or, by SGLang, as if the placeholders were words: whoever builds
    requests has to see to it that there are as many images."""
    body = without(request_body, "image_data")
    assert server.request("/generate", body)[0] >= 200
