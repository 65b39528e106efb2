"""The gate, the secret and the launcher's endpoints, without SGLang.

With it: tests/rollout/test_servers_sglang.py.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import secrets

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.serving.guard import (
    COMPARE_PATH,
    OPEN_PATH,
    VERSION_HEADER,
    WARM_UP_HEADER,
    Gate,
    Secret,
    add_endpoints,
)


@dataclasses.dataclass
class Arguments:
    port: int
    api_key: str | None


def test_a_secret_is_a_string_that_is_not_shown():
    arguments = Arguments(1, Secret("hunter2"))
    for shown in (repr(arguments), f"{arguments=}", f"{arguments!r}"):
        assert "hunter2" not in shown and "***" in shown
    for same in (copy.deepcopy(arguments), pickle.loads(pickle.dumps(arguments))):
        assert "hunter2" not in repr(same)
        assert secrets.compare_digest("hunter2", same.api_key)
    assert f"Bearer {arguments.api_key}" == "Bearer hunter2"


@given(
    version=st.none() | st.integers(0, 5),
    asked=st.none() | st.integers(0, 5).map(str) | st.sampled_from(["", "x", "1e9"]),
)
def test_a_gate_lets_through_what_it_is_open_for(version, asked):
    gate = Gate()
    gate.version = version
    passes = version is not None and (
        asked is None or (asked.isdigit() and int(asked) <= version)
    )
    assert (gate.refusal("/generate", asked) is None) == passes
    assert gate.refusal("/health", asked) is None
    assert gate.refusal("/update_weights_from_disk", asked) is None


class Rpc:
    """In place of AReaL's proxy; `error` is raised."""

    def __init__(self):
        self.calls, self.error = [], None

    def collective_rpc(self, method):
        self.calls.append(method)
        if self.error:
            raise self.error


@pytest.fixture
def rpc():
    return Rpc()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def client(rpc, gate):
    app = FastAPI()

    @app.post("/generate")
    async def generate() -> dict:
        return {"tokens": 1}

    add_endpoints(app, gate, rpc)
    return TestClient(app)


def generate(client, version: int | None) -> int:
    headers = {} if version is None else {VERSION_HEADER: str(version)}
    return client.post("/generate", headers=headers).status_code


def test_born_closed_and_opened_for_a_version(client):
    assert generate(client, None) == generate(client, 0) == 503
    assert client.post(OPEN_PATH, json={"version": 3}).json() == {"version": 3}
    assert [generate(client, asked) for asked in (None, 2, 3, 4)] == [200] * 3 + [503]
    assert client.post(OPEN_PATH, json={"version": None}).status_code == 200
    assert generate(client, 0) == 503
    assert client.post(OPEN_PATH, json={"version": "x"}).status_code == 422


def test_the_servers_own_warm_up_passes_and_nothing_else(client, gate):
    """Before the gate is opened; what it then knows opens nothing, closed or not."""
    warm_up = gate.warm_up_client(client)  # has `post` and `get`, as `requests` has

    def status(posts, **headers) -> int:
        return posts.post("/generate", json={}, headers=headers).status_code

    assert status(warm_up, Authorization="Bearer x") == 200
    assert warm_up.get("/nowhere").status_code == 404
    for guess in ("", "x", "\xe4"):
        assert status(client, **{WARM_UP_HEADER: guess.encode("latin-1")}) == 503
    assert status(client) == 503
    client.post(OPEN_PATH, json={"version": 1})
    client.post(OPEN_PATH, json={"version": None})
    assert status(warm_up) == 503


def test_no_two_gates_share_a_pass(client):
    assert Gate().warm_up_client(client).post("/generate", json={}).status_code == 503


def test_comparing_runs_in_the_schedulers(client, rpc):
    assert client.post(COMPARE_PATH).json() == {"equal": True, "message": ""}
    assert rpc.calls == ["cppo_compare_weights"]
    rpc.error = RuntimeError("rank 1: a parameter differs")
    answer = client.post(COMPARE_PATH, json={}).json()
    assert answer == {"equal": False, "message": "rank 1: a parameter differs"}
