"""A worker's server fails in every way, and comes back with the newest weights.

The server is real to `OwnedServer`: a process that listens (`FailingServer`). With
SGLang: test_servers_sglang.py. Updates over the wire:
test_servers_wire.py. Where requests go: test_servers_requests.py.
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

from areal_cppo.rollout.servers.client import ServerError
from tests.rollout.owned_server import (
    PATIENCE_SECONDS,
    Server,
    at_once,
    refused,
    version,
    wait_for,
)
from tests.scripted_server import ScriptedServer, look, script


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
