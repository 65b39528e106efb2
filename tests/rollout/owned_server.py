"""An `OwnedServer` of a failing server (`tests.scripted_server`). Not a test itself."""

from __future__ import annotations

import time
from pathlib import Path

import requests
from areal.api import WeightUpdateMeta
from areal.engine.sglang_remote import SGLangBackend
from areal.utils.network import find_free_ports

from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.servers.client import ServerClient
from areal_cppo.rollout.servers.lifecycle import OwnedServer
from areal_cppo.rollout.servers.weights import Weights
from tests.scripted_server import TOKEN, launch

PATIENCE_SECONDS = 60.0
QUICK = {"health_seconds": 0.1, "hang_seconds": 3.0, "update_seconds": 20.0}


def weights_folder(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(str(number))
    return folder


def version(folder: Path, number: int) -> Weights:
    """Version `number` of the weights, which are 100 + number, on disk."""
    path = weights_folder(folder / f"weight_update_v{number}", 100 + number)
    return Weights.of_update(
        WeightUpdateMeta(type="disk", path=str(path), version=number), number
    )


def wait_for(condition) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.01)


def at_once() -> None:
    """In place of waiting for the trainer to write."""


class Server(OwnedServer):
    """An `OwnedServer` of a failing server; `states` are those that it was in, `pids`
    its processes, one after the other."""

    def __init__(self, folder: Path, **settings):
        self.folder = weights_folder(folder, 0)
        self.states: list[str] = []
        self.pids: list[int] = []
        port = find_free_ports(1)[0]

        def launched(weights: Weights):
            process = launch(port, weights.path)
            self.pids.append(process.pid)
            return process

        super().__init__(
            ServerClient(f"127.0.0.1:{port}", TOKEN),
            launched,
            SGLangBackend(),
            ServersConfig(**(QUICK | settings)),
            start_seconds=30.0,
            first=Weights(0, str(folder)),
            on_state=self.states.append,
            poll_seconds=0.02,
        )

    def until(self, *states: str) -> None:
        """Wait for it to be in these states, one after the other."""
        for state in states:
            wait_for(lambda: state in self.states)
            del self.states[: self.states.index(state) + 1]

    def ask(self) -> int:
        """The weights that a request sent now is answered from."""
        reply = requests.post(
            f"http://{self.address}/generate",
            json={},
            headers={"Authorization": f"Bearer {TOKEN}", "X-Weights-Version": "0"},
            timeout=10,
        )
        return reply.json()["output_ids"][0] - 10


def refused(server) -> bool:
    """Whether a request sent now gets no tokens."""
    try:
        server.ask()
    except KeyError:  # 503, with nothing in it
        return True
    return False
