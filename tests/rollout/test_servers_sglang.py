"""Two real SGLang servers: one is killed under requests, one in a weight update.

Each is owned by an engine, as in two rollout workers; what the controller does (telling
them of each other) is done by hand. Log-probs say of which weights a server is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import psutil
import pytest
import requests
import torch
from areal.api import ModelRequest, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters, SGLangConfig
from safetensors.torch import load_file, save_file

from areal_cppo.config.experiment import CPPORolloutConfig
from areal_cppo.config.servers import ServersConfig
from areal_cppo.config.serving import CPU_SETTINGS, GenerationServerConfig
from areal_cppo.rollout.engine import CPPORolloutEngine
from areal_cppo.rollout.servers.http import authorization
from areal_cppo.rollout.servers.weights import Weights
from areal_cppo.serving.cpu import interpreter_environment, needs_shim
from areal_cppo.serving.listen import LISTEN_VARIABLE, LOOPBACK
from areal_cppo.tasks.tokenizer import build_tokenizer
from areal_cppo.tasks.triangles import checkpoint_dir

pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(1500)]

TOKEN = "the token of the test"
PATIENCE_SECONDS = 400.0
N_REQUESTS, N_TOKENS = 48, 200
PROBE = [24, 30, 31, 32, 33, 34, 35, 36]


def other_weights(folder: Path, seed: int) -> Path:
    """The tiny model with one matrix changed a little."""
    shutil.copytree(checkpoint_dir(), folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    (name,) = [n for n in weights if n.endswith("layers.0.self_attn.k_proj.weight")]
    noise = torch.randn(
        weights[name].shape, generator=torch.Generator().manual_seed(seed)
    )
    weights[name] = weights[name] + 0.05 * noise
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def engines():
    patch = pytest.MonkeyPatch()
    patch.setenv(LISTEN_VARIABLE, LOOPBACK)
    for name, value in interpreter_environment(os.environ).items():
        patch.setenv(name, value)
    sglang = GenerationServerConfig(
        model_path=str(checkpoint_dir()),
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
    pair = [CPPORolloutEngine(config) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            start = {**args, "token": TOKEN}
            list(pool.map(lambda engine: engine.launch_server(start), pair))
        for number, engine in enumerate(pair):
            engine.initialize(str(number), token=TOKEN, model=str(checkpoint_dir()))
        meet(pair)
        yield pair
    finally:
        for engine in pair:
            engine.destroy()
        patch.undo()


def meet(engines) -> list[dict]:
    """What the controller does every few seconds; returns events."""
    servers = [engine._engine.server for engine in engines]
    states = {server.address: server.state for server in servers}
    return [
        event for engine in engines for event in engine.server_status(states)["events"]
    ]


def until(server, state: str) -> None:
    began = time.monotonic()
    while server.state != state:
        assert server.state != "lost", server.reason
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.5)


def processes(server) -> list[psutil.Process]:
    """Main process first."""
    main = psutil.Process(server.live._process._main.pid)
    return [main, *main.children(recursive=True)]


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def scheduler(server) -> psutil.Process:
    (found,) = [p for p in processes(server) if "scheduler" in " ".join(p.cmdline())]
    return found


def probe(server) -> torch.Tensor:
    """Log-probs of a fixed prompt, nats."""
    reply = requests.post(
        f"http://{server.address}/generate",
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


def request() -> ModelRequest:
    return ModelRequest(
        input_ids=list(PROBE),
        image_data=None,
        tokenizer=build_tokenizer(),
        gconfig=GenerationHyperparameters(max_new_tokens=N_TOKENS, ignore_eos=True),
    )


async def ask_all(engine, after) -> list:
    """Responses to many requests at once; `after(n)` is called when n are sent."""
    async with aiohttp.ClientSession() as session:
        generator = engine._engine._generator or engine._engine._make_generator()

        async def one():
            reply = await generator.generate(
                session, request(), False, engine.get_version, lambda: False
            )
            return reply[0]

        asked = [asyncio.ensure_future(one()) for _ in range(N_REQUESTS)]
        await asyncio.sleep(1.0)
        await asyncio.to_thread(after)
        return await asyncio.gather(*asked)


def update(engines, folder: Path, number: int, meanwhile=lambda: None) -> None:
    """A weight update as the controller and the trainer do it; files are there."""
    meta = WeightUpdateMeta(type="disk", path=str(folder), version=number)
    with ThreadPoolExecutor(2) as pool:
        for engine in engines:
            engine.pause_generation()
        weights = Weights.of_update(meta, number)

        def load(engine):
            engine._engine.server.update(weights, meanwhile)

        list(pool.map(load, engines))
        for engine in engines:
            engine.continue_generation()
            engine.set_version(number)


def test_two_servers(engines, tmp_path):
    first, second = (engine._engine.server for engine in engines)
    at_start = probe(first)
    assert torch.equal(probe(second), at_start)

    # No token, no tokens; and it is seen by nobody who lists the processes.
    bare = requests.post(f"http://{first.address}/generate", json={}, timeout=30)
    assert bare.status_code == 401
    for process in processes(first):
        assert TOKEN not in " ".join(process.cmdline())

    # Killed under requests: all are answered, by the other.
    before = processes(first)
    responses = asyncio.run(
        ask_all(engines[0], lambda: before[0].send_signal(signal.SIGKILL))
    )
    assert [r.output_len for r in responses] == [N_TOKENS] * N_REQUESTS
    until(first, "down")
    told = meet(engines)
    assert "server_down" in [event["event"] for event in told]
    resent = [event for event in told if event["event"] == "request_resent"]
    assert sum(event["count"] for event in resent) > 0

    # New weights while it is down: the other has them at once, it when it is back.
    one = other_weights(tmp_path / "weight_update_v1", 1)
    update(engines, one, 1)
    assert second.served == 1 and second.state == "up"
    new = probe(second)
    assert not torch.allclose(new, at_start, atol=1e-4)
    until(first, "up")
    assert first.served == 1 and first.restarts == 1
    torch.testing.assert_close(probe(first), new, atol=1e-5, rtol=0)
    assert all(map(ended, before))

    # Its scheduler stops in the middle of an update: ended, and back with the newest.
    stopped = scheduler(second)
    two = other_weights(tmp_path / "weight_update_v2", 2)
    update(engines, two, 2, meanwhile=lambda: stopped.send_signal(signal.SIGSTOP))
    assert first.served == 2 and first.state == "up"
    assert second.state == "down" and "stopped" in second.reason
    shutil.rmtree(one)  # as the controller does when the update is done
    newest = probe(first)
    until(second, "up")
    assert second.served == 2
    torch.testing.assert_close(probe(second), newest, atol=1e-5, rtol=0)

    # And both serve.
    meet(engines)
    for engine in engines:
        (response,) = set(
            r.output_len for r in asyncio.run(ask_all(engine, lambda: None))
        )
        assert response == N_TOKENS
    events = [event["event"] for event in meet(engines)]
    assert events.count("server_lost") == 0
