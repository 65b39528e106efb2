"""With which weights a server is started, and how it loads others."""

from __future__ import annotations

import time

import pytest
from areal.api import WeightUpdateMeta
from areal.api.cli_args import SGLangConfig
from areal.engine.sglang_remote import SGLangBackend
from areal.utils import name_resolve, names

from areal_cppo.rollout.servers import process, weights
from areal_cppo.rollout.servers.client import ServerClient, ServerError
from areal_cppo.rollout.servers.weights import Weights, wait_for_files
from tests.scripted_server import ScriptedServer


def full(number: int) -> Weights:
    meta = WeightUpdateMeta(type="disk", path=f"/update/v{number}", version=number)
    return Weights.of_update(meta, number)


def adapter(number: int) -> Weights:
    meta = WeightUpdateMeta(
        type="disk",
        path=f"/update/v{number}",
        version=number,
        use_lora=True,
        lora_name="lora",
        lora_keep_versions=2,
    )
    return Weights.of_update(meta, number)


@pytest.fixture
def started(monkeypatch):
    """Flags of the command that starts a server with these weights, of a run's first
    arguments."""

    def flags(given: Weights | None = None, **arguments) -> dict[str, str]:
        config = SGLangConfig(model_path="/first", **arguments)
        args = SGLangConfig.build_args(config, tp_size=1, base_gpu_id=0)
        commands = []
        monkeypatch.setattr(
            process.subprocess, "Popen", lambda command, **_: commands.append(command)
        )
        process.launcher(args, "")(given or Weights.of_server(args))
        (command,) = commands
        return dict(zip(command, command[1:], strict=False))

    return flags


def test_a_server_is_started_with_the_newest_weights(started):
    """Its tokenizer and processor stay the first model's."""
    for given, path in ((None, "/first"), (full(7), "/update/v7")):
        flags = started(given)
        assert flags["--model-path"] == path
        assert flags["--tokenizer-path"] == "/first"
        assert "--lora-paths" not in flags


def test_or_with_the_newest_adapter(started):
    first = {"enable_lora": True, "lora_paths": ["lora-v0=/initial"]}
    for given, path in ((None, "lora-v0=/initial"), (adapter(7), "lora-v7=/update/v7")):
        flags = started(given, **first)
        assert flags["--model-path"] == "/first"
        assert flags["--lora-paths"] == path


def test_the_first_weights_have_their_names():
    args = {"model_path": "/first"}
    assert Weights.of_server(args) == Weights(0, "/first")
    args["lora_paths"] = ["lora-v0=/initial"]
    assert Weights.of_server(args) == Weights(0, "/initial", "lora-v0")


@pytest.mark.parametrize("refusal", [(400, {}), (200, {"success": False})])
@pytest.mark.parametrize(
    ("given", "refused", "fails"),
    [
        (full(3), "/update_weights_from_disk", True),
        (adapter(3), "/load_lora_adapter", True),
        (adapter(3), "/unload_lora_adapter", False),  # of an older one: best effort
    ],
)
def test_a_server_that_can_not_load(given, refused, fails, refusal):
    def control(request):
        return refusal if request.path == refused else (200, {"success": True})

    with ScriptedServer(lambda request: None, control) as server:
        client = ServerClient(server.address)
        if fails:
            with pytest.raises(ServerError, match=refused):
                given.load_into(client, SGLangBackend(), timeout=10.0)
        else:
            given.load_into(client, SGLangBackend(), timeout=10.0)
        assert refused in [call.path for call in server.calls]


def test_a_record_from_before_a_restart_is_not_the_trainers_word(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(weights, "_CLOCK_SECONDS", 5.0)
    records = {}

    def get(name):
        if name not in records:
            raise name_resolve.NameEntryNotFoundError(name)
        return records[name]

    monkeypatch.setattr(name_resolve, "get", get)
    name = names.update_weights_from_disk("e", "t", 3)
    with pytest.raises(RuntimeError, match="after version 3 in 0 s, found no word"):
        wait_for_files("e", "t", 3, timeout=0.1)
    records[name] = str(time.time() - 10.0)
    with pytest.raises(RuntimeError, match="no word of it"):
        wait_for_files("e", "t", 3, timeout=0.1)
    records[name] = str(time.time())
    wait_for_files("e", "t", 3, timeout=0.1)
