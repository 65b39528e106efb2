"""Requests for responses when servers die, hang or answer nonsense.

The servers are scripted, in threads; a weight update's effect on versions, too. Not
covered: SGLang itself (test_servers_sglang.py).
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from contextlib import ExitStack

import aiohttp
import pytest
from areal.api import ModelRequest
from areal.api.cli_args import GenerationHyperparameters
from areal.engine.sglang_remote import SGLangBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.servers import generation
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import Generator, RequestFailed
from tests.scripted_server import LOGPROB, ScriptedServer, answer

VOCABULARY = 50
PROMPT = [1, 2, 3]
IMAGE = "an image that must not be logged"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(generation, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(generation, "_WATCH_SECONDS", 0.05)


def request(most: int = 8) -> ModelRequest:
    return ModelRequest(
        input_ids=list(PROMPT),
        image_data=[IMAGE],
        gconfig=GenerationHyperparameters(max_new_tokens=most),
    )


class Client:
    """A `Generator` and what it reported."""

    def __init__(self, servers: list[ScriptedServer], own: int | None = None, **how):
        self.answers, self.resent, self.version = [], [], 0
        addresses = [server.address for server in servers]
        self.fleet = Fleet(addresses, None if own is None else addresses[own])
        seconds = how.pop("seconds", 30.0)
        self.generator = Generator(
            self.fleet,
            SGLangBackend(),
            ServersConfig(**how),
            seconds,
            "the token",
            VOCABULARY,
            lambda address, wrong: self.answers.append((address, wrong)),
            lambda address, reason: self.resent.append((address, reason)),
        )

    async def run(self, req: ModelRequest):
        async with aiohttp.ClientSession() as session:
            return await self.generator.generate(
                session, req, False, lambda: self.version, lambda: False
            )

    def ask(self, most: int = 8):
        return asyncio.run(self.run(request(most)))


def good(payload):
    return 200, answer([7, 8])


def broken(payload):
    return None


def test_the_token_and_the_version_go_along():
    with ScriptedServer(good) as server:
        client = Client([server])
        client.version = 5
        response, resent = client.ask()
    (sent,) = server.requests
    assert sent["input_ids"] == PROMPT and sent["image_data"] == [IMAGE]
    assert sent.headers["Authorization"] == "Bearer the token"
    assert sent.headers["X-Weights-Version"] == "5"
    assert response.output_versions == [5, 5] and resent == 0
    assert client.answers == [(server.address, None)]


def test_the_own_server_is_asked_and_the_others_when_it_is_down():
    with (
        ScriptedServer(good) as one,
        ScriptedServer(good) as own,
        ScriptedServer(good) as other,
    ):
        client = Client([one, own, other], own=1)
        for _ in range(4):
            client.ask()
        assert [len(s.requests) for s in (one, own, other)] == [0, 4, 0]
        client.fleet.set_state(own.address, "down")
        for _ in range(4):
            client.ask()
        assert [len(s.requests) for s in (one, own, other)] == [2, 4, 2]
        client.fleet.set_state(own.address, "up")
        client.ask()
        assert len(own.requests) == 5


def test_a_server_that_just_failed_is_asked_last():
    with ScriptedServer(broken) as own, ScriptedServer(good) as other:
        client = Client([own, other], own=0)
        for _ in range(3):
            client.ask()
    assert len(own.requests) == 1 and len(other.requests) == 3


NONSENSE = {
    "not JSON": "<html>",
    "not an object": "[1]",
    "no meta_info": {},
    "no finish reason": {"meta_info": {LOGPROB: []}},
    "an unknown finish reason": answer([7], "tired"),
    "no tokens": {"meta_info": {"finish_reason": {"type": "stop"}}},
    "a length of nothing": answer([], "length"),
    "too many tokens": answer([7] * 9),
    "a token without a log-prob": answer([7], **{LOGPROB: [[7]]}),
    "no number": answer([7], **{LOGPROB: [["-0.1", 7, None]]}),
    "null": answer([7], **{LOGPROB: [[None, 7, None]]}),
    "NaN": '{"meta_info": {"finish_reason": {"type": "stop"}, '
    '"output_token_logprobs": [[NaN, 7, null]]}}',
    "minus infinity": '{"meta_info": {"finish_reason": {"type": "stop"}, '
    '"output_token_logprobs": [[-1e999, 7, null]]}}',
    "a probability above 1": answer([7], **{LOGPROB: [[0.5, 7, None]]}),
    "a token outside": answer([7], **{LOGPROB: [[-0.1, VOCABULARY, None]]}),
    "a negative token": answer([7], **{LOGPROB: [[-0.1, -1, None]]}),
    "half a token": answer([7], **{LOGPROB: [[-0.1, 1.5, None]]}),
    "unequal lists": answer([7, 8]) | {"output_ids": [7]},
    "other tokens": answer([7, 8]) | {"output_ids": [7, 9]},
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_noticed_and_asked_elsewhere(kind, caplog):
    def wrong(payload):
        return 200, NONSENSE[kind]

    with ScriptedServer(wrong) as own, ScriptedServer(good) as other:
        client = Client([own, other], own=0)
        response, resent = client.ask()
    assert response.output_tokens == [7, 8] and resent == 1
    (first, last) = client.answers
    assert first[0] == own.address and first[1] is not None
    assert last == (other.address, None)
    assert client.resent == [(own.address, first[1])]


@pytest.mark.parametrize("status, is_wrong", [(500, True), (503, False), (400, False)])
def test_a_status_is_asked_elsewhere(status, is_wrong):
    """503: closed or busy; below 500: the request's fault, not the server's."""
    with ScriptedServer(lambda p: (status, "{}")) as own, ScriptedServer(good) as other:
        client = Client([own, other], own=0)
        _, resent = client.ask()
    assert resent == 1 and f"status {status}" in client.resent[0][1]
    assert (len(client.answers) == 2) == is_wrong


def test_one_request_that_fails_everywhere_breaks_no_server():
    """It may be the request's fault; `nonsense` unusable answers end a server."""
    with (
        ScriptedServer(lambda p: (500, "{}")) as one,
        ScriptedServer(lambda p: (500, "{}")) as two,
    ):
        client = Client([one, two], request_attempts=6)
        with pytest.raises(RequestFailed, match="failed 6 times"):
            client.ask()
    told = [address for address, wrong in client.answers if wrong]
    assert sorted(told) == sorted([one.address, two.address])


def test_attempts_are_limited_and_nothing_of_the_request_is_told(monkeypatch, caplog):
    monkeypatch.setattr(generation.logger, "handlers", [caplog.handler])
    with ScriptedServer(broken) as one, ScriptedServer(broken) as two:
        client = Client([one, two], request_attempts=3)
        with pytest.raises(RequestFailed, match="failed 3 times") as failed:
            client.ask()
    assert len(one.requests) + len(two.requests) == 3
    assert abs(len(one.requests) - len(two.requests)) == 1
    assert len(caplog.records) == 3 and one.address in caplog.text
    for told in (caplog.text, str(failed.value)):
        assert IMAGE not in told and "token" not in told


def test_a_server_that_goes_down_while_it_is_asked():
    """Its host may be gone without a word: no reset of the connection tells."""
    hanging = threading.Event()

    def hang(payload):
        hanging.set()
        time.sleep(100)

    async def both(client):
        asked = asyncio.ensure_future(client.run(request()))
        await asyncio.to_thread(hanging.wait)
        client.fleet.set_state(own.address, "down")
        return await asked

    with ScriptedServer(hang) as own, ScriptedServer(good) as other:
        client = Client([own, other], own=0, seconds=600.0)
        began = time.monotonic()
        response, resent = asyncio.run(both(client))
    assert response.output_tokens == [7, 8] and resent == 1
    assert time.monotonic() - began < 30


def test_no_answer_in_time():
    with (
        ScriptedServer(lambda p: time.sleep(100)) as own,
        ScriptedServer(good) as other,
    ):
        client = Client([own, other], own=0, seconds=1.0)
        assert client.ask()[1] == 1
    assert "no answer" in client.resent[0][1]


def test_it_is_waited_for_a_server_to_come_back():
    with ScriptedServer(good) as server:
        client = Client([server], own=0)
        client.fleet.set_state(server.address, "down")
        back = threading.Timer(0.3, client.fleet.set_state, (server.address, "up"))
        back.start()
        assert client.ask()[0].output_tokens == [7, 8]


def test_nothing_is_asked_when_all_are_lost():
    """A group that failed at once would count as one that can't be used."""
    with ScriptedServer(good) as server:
        client = Client([server], own=0, seconds=0.5)
        client.fleet.set_state(server.address, "lost")
        began = time.monotonic()
        with pytest.raises(RequestFailed, match="no server was up"):
            client.ask()
    assert time.monotonic() - began > 0.5


def test_what_was_received_is_kept():
    """Interrupted at one server, which then dies; another goes on, at a new version."""
    parts = itertools.chain([(200, answer([7, 8], "abort"))], itertools.repeat(None))

    def then_dies(payload):
        client.version += 1
        return next(parts)

    def goes_on(payload):
        assert payload["input_ids"] == [*PROMPT, 7, 8]
        assert payload["sampling_params"]["max_new_tokens"] == 6
        return 200, answer([9])

    with ScriptedServer(then_dies) as own, ScriptedServer(goes_on) as other:
        client = Client([own, other], own=0)
        response, resent = client.ask()
    assert response.output_tokens == [7, 8, 9] and resent == 1
    assert response.output_versions == [0, 0, 2]
    assert response.output_logprobs == pytest.approx([-0.7, -0.8, -0.9])
    assert response.input_tokens == PROMPT


def test_aborted_with_all_its_tokens_it_has_its_length():
    with ScriptedServer(lambda p: (200, answer([7, 8], "abort"))) as server:
        response, _ = Client([server]).ask(most=2)
    assert response.stop_reason == "length" and len(server.requests) == 1


def test_prompts_that_leave_no_room_are_refused():
    full = request()
    full.gconfig.max_tokens = len(PROMPT)
    with ScriptedServer(good) as server:
        with pytest.raises(ValueError, match="shorter than max_tokens 3"):
            asyncio.run(Client([server]).run(full))
    assert server.requests == []


FAULTS = ("break", "nonsense", "status", "part", "empty")


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(st.sampled_from(FAULTS), max_size=6),
    sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    n_servers=st.integers(1, 3),
)
def test_whatever_happens_no_token_is_lost_doubled_or_misdated(
    events, sizes, n_servers
):
    """The k-th request to any server meets the k-th event; then all is well. The n-th
    token of a response is n, and each request sees the policy one version later."""
    lock, left, sent = threading.Lock(), list(events), []

    def reply(payload):
        with lock:
            start = len(payload["input_ids"]) - len(PROMPT)
            event = left.pop(0) if left else "end"
            size = sizes[len(sent) % len(sizes)]
            version, client.version = client.version, client.version + 1
            most = payload["sampling_params"]["max_new_tokens"]
            tokens = list(range(start, start + min(size, most)))
            sent.append((event, version, tokens if event in ("part", "end") else []))
        if event == "break":
            return None
        if event == "nonsense":
            return 200, "?"
        if event == "status":
            return 502, "{}"
        if event == "empty":
            return 200, answer([], "abort")
        return 200, answer(tokens, "abort" if event == "part" else "stop")

    with ExitStack() as stack:
        servers = [stack.enter_context(ScriptedServer(reply)) for _ in range(n_servers)]
        client = Client(servers, request_attempts=7)
        response, resent = client.ask(most=12)
    tokens = [token for _, _, part in sent for token in part]
    versions = [version for _, version, part in sent for _ in part]
    assert response.output_tokens == tokens == list(range(len(tokens)))
    assert response.output_versions == versions
    assert response.output_logprobs == pytest.approx([-0.1 * t for t in tokens])
    failed = sum(event in ("break", "nonsense", "status") for event, *_ in sent)
    assert resent == failed == len(client.resent)
