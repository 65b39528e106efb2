"""A real SGLang server that is killed under requests, then stopped in a weight update.

An engine owns it, as in a rollout worker; what the controller does (telling it of the
other servers) is done by hand. The other server is the session's. Log-probs say of
which weights a server is: the other one loads them, this one is started with them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import psutil
import pytest
import requests
import torch
from areal.api import ModelRequest, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters, SGLangConfig
from transformers import AutoConfig

from areal_cppo.config.engines import (
    CPU_SETTINGS,
    CPPORolloutConfig,
    GenerationServerConfig,
)
from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.controller import CPPORolloutEngine
from areal_cppo.rollout.servers.client import authorization
from areal_cppo.rollout.servers.weights import Weights
from areal_cppo.serving.cpu import interpreter_environment, needs_shim
from areal_cppo.serving.listen import LISTEN_VARIABLE, LOOPBACK

pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(1500)]

TOKEN = "the token of the test"
PATIENCE_SECONDS = 400.0
N_REQUESTS, N_TOKENS = 48, 200
PROBE = [24, 30, 31, 32, 33, 34, 35, 36]


@pytest.fixture
def other(sglang_server):
    """The session's server, which gets its weights back."""
    yield sglang_server
    assert sglang_server.load_weights(sglang_server.model)[0] == 200


@pytest.fixture
def engine(other, monkeypatch):
    monkeypatch.setenv(LISTEN_VARIABLE, LOOPBACK)
    for name, value in interpreter_environment(os.environ).items():
        monkeypatch.setenv(name, value)
    sglang = GenerationServerConfig(
        model_path=str(other.model),
        skip_tokenizer_init=True,
        enable_multimodal=True,
        context_length=None,
        **(CPU_SETTINGS if needs_shim() else {}),
    )
    args = SGLangConfig.build_args(sglang_config=sglang, tp_size=1, base_gpu_id=0)
    config = CPPORolloutConfig(
        backend="sglang:d2",
        setup_timeout=PATIENCE_SECONDS,
        servers=ServersConfig(
            health_seconds=0.5, hang_seconds=20.0, healthy_seconds=3600.0
        ),
    )
    made = CPPORolloutEngine(config)
    try:
        made.launch_server({**args, "token": TOKEN})
        made.initialize("0", token=TOKEN, model=str(other.model))
        yield made
    finally:
        made.destroy()


@pytest.fixture
def new_weights(other, tmp_path):
    """Writes a version as AReaL's trainer does: the model with one matrix changed."""

    def write(number: int) -> Path:
        folder = tmp_path / f"weight_update_v{number}"
        model = other.load(other.model)
        key = model.model.language_model.layers[0].self_attn.k_proj.weight
        noise = torch.randn(key.shape, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            key.add_(0.05 * noise.to(key))
        model.save_pretrained(folder)
        AutoConfig.from_pretrained(other.model).save_pretrained(folder)
        other.tokenizer.save_pretrained(folder)
        other.processor.save_pretrained(folder)
        assert other.load_weights(folder)[0] == 200
        return folder

    return write


def meet(engine, other) -> list[dict]:
    """What the controller does every few seconds; returns events."""
    server = engine._engine.server
    states = {server.address: server.state, address(other): "up"}
    return engine.server_status(states)["events"]


def address(other) -> str:
    return other.address.removeprefix("http://")


def until(server, state: str) -> None:
    began = time.monotonic()
    while server.state != state:
        assert server.state != "lost", server.reason
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.2)


def processes(server) -> list[psutil.Process]:
    """Main process first."""
    main = psutil.Process(server._live._main.pid)
    return [main, *main.children(recursive=True)]


def scheduler(server) -> psutil.Process:
    (found,) = [p for p in processes(server) if "scheduler" in " ".join(p.cmdline())]
    return found


def probe(server: str) -> torch.Tensor:
    """Log-probs of a fixed prompt, nats."""
    reply = requests.post(
        f"http://{server}/generate",
        json={
            "input_ids": PROBE,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        },
        headers=authorization(TOKEN),
        timeout=60,
    )
    reply.raise_for_status()
    entries = reply.json()["meta_info"]["input_token_logprobs"][1:]
    return torch.tensor([entry[0] for entry in entries])


async def ask_all(engine, tokenizer, after=lambda: None) -> list:
    """Responses to many requests at once; `after` is called when they are sent."""
    request = ModelRequest(
        input_ids=list(PROBE),
        image_data=None,
        tokenizer=tokenizer,
        gconfig=GenerationHyperparameters(max_new_tokens=N_TOKENS, ignore_eos=True),
    )
    async with aiohttp.ClientSession() as session:
        generator = engine._engine._generator or engine._engine._make_generator()

        async def one():
            reply = await generator.generate(
                session, request, False, engine.get_version, lambda: False
            )
            return reply[0]

        asked = [asyncio.ensure_future(one()) for _ in range(N_REQUESTS)]
        await asyncio.sleep(1.0)
        await asyncio.to_thread(after)
        return await asyncio.gather(*asked)


def update(engine, folder: Path, number: int, meanwhile=lambda: None) -> None:
    """A weight update as the controller and the trainer do it; files are there."""
    meta = WeightUpdateMeta(type="disk", path=str(folder), version=number)
    engine.pause_generation()
    engine._engine.server.update(Weights.of_update(meta, number), meanwhile)
    engine.continue_generation()
    engine.set_version(number)


def test_it_comes_back_with_the_newest_weights(engine, other, new_weights, gone):
    own = engine._engine.server
    meet(engine, other)
    at_start = probe(own.address)
    torch.testing.assert_close(at_start, probe(address(other)), atol=1e-5, rtol=0)

    # No token, no tokens; and it is seen by nobody who lists the processes.
    bare = requests.post(f"http://{own.address}/generate", json={}, timeout=30)
    assert bare.status_code == 401
    for process in processes(own):
        assert TOKEN not in " ".join(process.cmdline())

    # Killed under requests: all are answered, by the other.
    before = processes(own)
    responses = asyncio.run(
        ask_all(engine, other.tokenizer, lambda: before[0].send_signal(signal.SIGKILL))
    )
    assert [r.output_len for r in responses] == [N_TOKENS] * N_REQUESTS
    until(own, "down")
    told = meet(engine, other)
    assert "server_down" in [event["event"] for event in told]
    resent = [event for event in told if event["event"] == "request_resent"]
    assert sum(event["count"] for event in resent) > 0

    # New weights while it is down, or starts.
    one = new_weights(1)
    update(engine, one, 1)
    new = probe(address(other))
    assert not torch.allclose(new, at_start, atol=1e-4)
    until(own, "up")
    assert own.served == 1 and own.restarts == 1
    torch.testing.assert_close(probe(own.address), new, atol=1e-5, rtol=0)
    assert all(gone(process.pid) for process in before)

    # Its scheduler stops in the middle of an update: it is started with that one.
    stopped, two = scheduler(own), new_weights(2)
    update(engine, two, 2, meanwhile=lambda: stopped.send_signal(signal.SIGSTOP))
    assert own.state == "down" and "stopped" in own.reason
    until(own, "up")
    assert own.served == 2 and str(two) in processes(own)[0].cmdline()
    newest = probe(address(other))
    assert not torch.allclose(newest, new, atol=1e-4)
    torch.testing.assert_close(probe(own.address), newest, atol=1e-5, rtol=0)

    # And it serves.
    meet(engine, other)
    answered = len(asyncio.run(ask_all(engine, other.tokenizer)))
    assert answered == N_REQUESTS
    events = [event["event"] for event in meet(engine, other)]
    assert "request_resent" not in events and "server_lost" not in events
