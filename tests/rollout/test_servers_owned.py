"""A worker's server fails in every way, and comes back with the newest weights.

The server is real to `OwnedServer`: a process that listens (`FailingServer`). With
SGLang: test_servers_sglang.py. Where requests go: test_servers_requests.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from areal.api import WeightUpdateMeta
from areal.api.io_struct import HttpRequest
from areal.engine.sglang_remote import SGLangBackend
from areal.utils.network import find_free_ports

from areal_cppo.config.blocks import ServersConfig
from areal_cppo.rollout.servers.client import ServerClient, ServerError
from areal_cppo.rollout.servers.lifecycle import OwnedServer
from areal_cppo.rollout.servers.weights import Weights
from tests.scripted_server import TOKEN, ScriptedServer, launch, look, script

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


@pytest.fixture
def make(tmp_path):
    servers = []

    def start(**settings) -> Server:
        server = Server(tmp_path / f"server{len(servers)}", **settings)
        servers.append(server)
        server.start()
        server.until("up")
        return server

    yield start
    for server in servers:
        server.close()


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


def ended(process: psutil.Process) -> bool:
    gone = not process.is_running()
    return gone or process.status() == psutil.STATUS_ZOMBIE


def test_killed_it_is_started_again_on_its_port(make):
    server = make()
    (child,) = children(server.pids[0])
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down", "up")
    assert server.ask() == 0
    assert server.restarts == 1 and len(server.pids) == 2
    assert ended(child)  # what it left behind is ended, too
    events = [event["event"] for event in server.status()["events"]]
    assert events == ["server_up", "server_down", "server_restarting", "server_up"]
    assert server.status()["events"] == []  # each is told once


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def stop_child(pid: int) -> None:
    os.kill(children(pid)[0].pid, signal.SIGSTOP)


@pytest.mark.parametrize("stopped", [stop, stop_child])
def test_a_stopped_process_is_noticed_and_ended(make, stopped):
    server = make(hang_seconds=1.0)
    tree = [psutil.Process(server.pids[0]), *children(server.pids[0])]
    stopped(server.pids[0])
    server.until("down", "up")
    assert all(ended(process) for process in tree)
    assert server.ask() == 0


def test_silence_is_noticed(make):
    server = make(hang_seconds=1.0)
    script(server.address, mode="silent")
    server.until("down")
    assert "silent for 1 s" in server.reason
    server.until("up")


@pytest.mark.parametrize(
    "ending, longest",
    [(4, 0.7), (0, 3.0)],
    ids=["soon gone", "not gone: SGLang's own pause sees to them"],
)
def test_what_runs_is_aborted_before_it_is_paused(make, ending, longest):
    """SGLang's pause looks for the first time after a second."""
    server = make()
    script(server.address, mode="well", open_requests=8, ending=ending)
    before = len(look(server.address)["seen"])
    began = time.monotonic()
    server.pause()
    assert time.monotonic() - began < longest
    assert look(server.address)["seen"][before:] == [
        "/abort_request",
        "/pause_generation",
    ]
    assert server.state == "up"


def test_a_paused_server_is_not_silent(make):
    """SGLang's /health is, while paused; the heartbeat must not be."""
    server = make(hang_seconds=1.5)
    server.pause()
    time.sleep(2 * 1.5)
    assert server.state == "up"
    server.resume()
    assert look(server.address)["seen"][-1] == "/continue_generation"


def test_loading_weights_is_not_silence(make, tmp_path):
    server = make(hang_seconds=0.5)
    script(server.address, mode="slow_update", seconds=1.5)
    server.update(version(tmp_path, 1), at_once)
    assert (server.state, server.served, server.ask()) == ("up", 1, 101)
    assert server.restarts == 0


def test_stopped_while_it_starts_again(make, tmp_path):
    """That attempt counts, and the next does."""
    server = make(restarts=3, hang_seconds=1.0)
    server.update(version(tmp_path, 1), at_once)
    (tmp_path / "stop_on_start").touch()
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down", "up")
    assert server.restarts == 2 and server.ask() == 101


def test_stopped_while_it_loads_what_came_since(make, tmp_path):
    """Else it would load for ever."""
    server = make(restarts=3, hang_seconds=1.0)
    started_again_slowly(server, tmp_path)
    (tmp_path / "stop_on_update").touch()
    server.update(version(tmp_path, 1), at_once)
    server.until("up")
    assert server.restarts == 2 and server.ask() == 101


def test_loading_for_too_long_is_a_failure(make, tmp_path):
    server = make(update_seconds=1.0)
    script(server.address, mode="slow_update", seconds=500.0)
    server.update(version(tmp_path, 1), at_once)  # does not fail the run
    assert server.state == "down"
    server.until("down", "up")
    assert (server.served, server.ask()) == (1, 101)


@pytest.mark.parametrize("mode", ["die_on_update", "refuse_update"])
def test_an_update_that_fails_ends_the_server_not_the_run(make, tmp_path, mode):
    server = make()
    script(server.address, mode=mode)
    server.update(version(tmp_path, 1), at_once)
    assert server.state == "down"
    server.until("down", "up")
    assert (server.served, server.ask(), look(server.address)["weights"]) == (
        1,
        101,
        101,
    )


def started_again_slowly(server, tmp_path) -> None:
    """Killed, and started again with the weights of now; it does not listen yet."""
    (tmp_path / "slow_start").write_text("1.0")
    started = len(server.pids)
    os.kill(server.pids[-1], signal.SIGKILL)
    server.until("down")
    wait_for(lambda: len(server.pids) > started)


def test_it_is_started_again_with_the_newest_weights(make, tmp_path):
    """As any server is: it loads none afterwards."""
    server = make()
    server.update(version(tmp_path, 1), at_once)
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down", "up")
    assert (server.served, server.ask()) == (1, 101)
    assert "/update_weights_from_disk" not in look(server.address)["seen"]


def test_it_loads_what_came_while_it_started(make, tmp_path):
    """Killed before one update, and the next one begins while it starts. The folder
    that it reads stays until it has been read."""
    server = make()
    started_again_slowly(server, tmp_path)
    one, two, three = (version(tmp_path, number) for number in (1, 2, 3))
    assert server.update(one, at_once) == str(server.folder)
    written = threading.Event()
    update = threading.Thread(target=server.update, args=(two, written.wait))
    update.start()
    wait_for(lambda: listens(server))
    time.sleep(0.3)
    assert server.state == "down"  # it is there, but waits for the newest
    assert refused(server)
    written.set()
    update.join()
    server.until("up")
    assert (server.served, server.ask()) == (2, 102)
    assert server.update(three, at_once) is None


def listens(server) -> bool:
    try:
        return bool(look(server.address))
    except OSError:
        return False


def test_a_folder_that_it_can_not_be_started_with(make, tmp_path):
    """The attempts fail; with the next version it comes back."""
    server = make(restarts=1000)
    one = version(tmp_path, 1)
    (Path(one.path) / "weights").unlink()
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down")
    server.update(one, at_once)
    wait_for(lambda: "did not come back" in server.reason)
    server.update(version(tmp_path, 2), at_once)
    server.until("up")
    assert (server.served, server.ask()) == (2, 102)


def test_another_program_on_its_port_is_not_let_in(make, tmp_path):
    """It may even say that it is healthy."""
    server = make(restarts=1000)
    port = int(server.address.rpartition(":")[2])
    (tmp_path / "slow_start").write_text("0.5")
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down")
    with bound(port) as impostor:
        wait_for(lambda: "answered nonsense" in server.reason)
    assert "up" not in server.states
    assert [call.path for call in impostor.calls].count("/health") > 0
    server.until("up")


@contextmanager
def bound(port: int):
    """A server on a port that another has just left."""
    began = time.monotonic()
    while True:
        try:
            server = ScriptedServer(lambda request: (200, {}), port=port)
            break
        except OSError:
            assert time.monotonic() - began < PATIENCE_SECONDS
            time.sleep(0.01)
    with server:
        yield server


def test_limit_of_restarts(make):
    server = make(restarts=1)
    for expected in (["down", "up"], ["down", "lost"]):
        os.kill(server.pids[-1], signal.SIGKILL)
        server.until(*expected)
    assert len(server.pids) == 2
    assert "ended with exit code -9" in server.reason
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(server.pids[-1])


def test_restarts_are_forgotten_after_a_healthy_time(make):
    server = make(restarts=1, healthy_seconds=0.2)
    for _ in range(3):
        os.kill(server.pids[-1], signal.SIGKILL)
        server.until("down", "up")
        wait_for(lambda: server.restarts == 0)
    assert len(server.pids) == 4


def test_nonsense_in_a_row_ends_it(make):
    server = make(nonsense=3)
    for wrong in ("a", "b", None, "c", "d"):
        server.answered(wrong)
    assert server.state == "up"
    server.answered("no log-prob")
    server.until("down", "up")


def test_control_of_a_server_that_is_down_fails_nothing(make):
    server = make(restarts=0)
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("lost")
    for call in (server.pause, server.resume, server.offload, server.onload):
        call()


def test_it_comes_back_paused_when_the_others_are(make):
    server = make()
    server.pause()
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down", "up")
    assert "/pause_generation" in look(server.address)["seen"]
    server.resume()
    assert look(server.address)["seen"][-1] == "/continue_generation"


def test_it_is_not_started_while_the_trainer_has_the_gpu(make):
    server = make()
    server.offload()
    os.kill(server.pids[0], signal.SIGKILL)
    server.until("down")
    time.sleep(0.5)
    assert len(server.pids) == 1
    server.onload()
    server.until("up")


JOIN = HttpRequest("/init_weights_update_group", {})


def part(number: int) -> list[HttpRequest]:
    """Half of version `number` of the weights, which are 100 + number."""
    payload = {"names": ["weights", 100 + number]}
    return [HttpRequest("/update_weights_from_distributed", payload)]


def refused(server) -> bool:
    """Whether a request sent now gets no tokens."""
    try:
        server.ask()
    except KeyError:  # 503, with nothing in it
        return True
    return False


def test_weights_over_the_wire(make):
    """Closed from the first part of a version until all have come."""
    server = make()
    server.join(JOIN)
    assert server.ask() == 0 and not server.can_rejoin
    for number in (1, 2):
        server.pause()
        for _ in range(2):
            server.receive(number, part(number))
            assert refused(server)
        server.resume()
        assert (server.state, server.served, server.ask()) == (
            "up",
            number,
            100 + number,
        )
    assert server.status()["version"] == 2 and server.restarts == 0
    server.resume()  # without an update
    assert server.ask() == 102


def test_waiting_for_the_others_is_not_silence(make):
    """A group is set up, and a part received, once all take part in it."""
    server = make(hang_seconds=0.5)
    script(server.address, mode="slow_update", seconds=0.8)
    server.join(JOIN)
    for _ in range(2):
        server.receive(1, part(1))
    server.resume()
    assert (server.state, server.ask(), server.restarts) == ("up", 101, 0)


@pytest.mark.parametrize(
    ("mode", "parts", "why"),
    [
        ("refuse_update", 1, "answered that it failed"),
        ("die_on_update", 1, "update_weights_from_distributed failed"),
        ("lose_update", 2, "does not hold version 1 of the weights: 1 has not come"),
        ("well", 1, "does not hold version 1 of the weights: 1 has not come"),
    ],
)
def test_a_wrong_or_cut_off_update_over_the_wire_leaves_it_shut(make, mode, parts, why):
    """And lost: it would have to join the group again."""
    server = make()
    server.join(JOIN)
    script(server.address, mode=mode)
    with pytest.raises(ServerError, match=why):
        for _ in range(parts):
            server.receive(1, part(1))
        assert refused(server)
        server.resume()
    assert server.served == 0
    server.until("down", "lost")
    assert "xccl" in server.reason and why in server.reason and len(server.pids) == 1
    with pytest.raises(ServerError, match="it is lost"):
        server.receive(2, part(2))


def test_a_version_that_begins_before_the_last_is_whole(make):
    server = make()
    server.join(JOIN)
    server.receive(1, part(1))
    with pytest.raises(ServerError, match="2 began before version 1 was complete"):
        server.receive(2, part(2))
    server.until("lost")


def test_setting_up_the_group_for_too_long_is_a_failure(make):
    server = make(update_seconds=1.0)
    script(server.address, mode="slow_update", seconds=500.0)
    with pytest.raises(ServerError, match="no answer to /init_weights_update_group"):
        server.join(JOIN)
    server.until("lost")


def test_files_that_are_never_written_fail_the_update(make, tmp_path):
    server = make()

    def never():
        raise RuntimeError("no word of it")

    with pytest.raises(RuntimeError, match="no word"):
        server.update(version(tmp_path, 1), never)
    assert (server.state, server.ask()) == ("up", 0)


def test_a_server_that_does_not_start_says_so(tmp_path):
    server = Server(tmp_path / "server")
    (server.folder / "weights").write_text("not a number")
    with pytest.raises(ServerError, match="ended with exit code 1"):
        server.start()
