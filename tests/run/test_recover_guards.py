"""What ends a run from inside, and the request to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from areal_cppo.run.observers import NonFinite, NonFiniteGuard
from areal_cppo.run.stop import HealthPoll, StopRequest
from areal_cppo.run.trainer import CPPOTrainer

NAN = float("nan")
LOSS, NORM = "ppo_actor/update/actor_loss/avg", "ppo_actor/update/grad_norm"
DONE = "ppo_actor/update/update_successful"


@pytest.mark.parametrize("wrong", [{LOSS: NAN}, {NORM: float("inf")}, {DONE: 0.0}])
def test_steps_that_teach_nothing_end_the_run(wrong):
    guard = NonFiniteGuard(limit=3)
    good = {LOSS: 0.1, NORM: 1.0, DONE: 1.0}
    for step, stats in enumerate([wrong, wrong, good, wrong, wrong], 1):
        guard.step_done(step, good | stats)
    with pytest.raises(NonFinite, match="3 steps in a row, up to step 6") as error:
        guard.step_done(6, good | wrong)
    assert "\n" not in str(error.value)


def test_a_trainer_half_made_is_not_taken_down(monkeypatch):
    """AReaL 2.0 does it when it can't be made, which may hang."""
    closed = []
    monkeypatch.setattr(CPPOTrainer.__base__, "close", lambda self: closed.append(self))
    trainer = object.__new__(CPPOTrainer)
    for made in (False, True):
        trainer._made = made
        trainer.close()
    assert closed == [trainer]


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[1]))
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def worker():
    """Start a worker's stand-in; returns its process and address."""
    started = []

    def start(status=200):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(status)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, f"127.0.0.1:{process.stdout.readline().strip()}"

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_without_a_sign_of_life_is_lost(worker, signum):
    (_, first), (other, second) = worker(status=500), worker()
    lost, done = [], threading.Event()

    def on_lost(error):
        lost.append(str(error))
        done.set()

    watch = HealthPoll({"actor/0": first, "actor/1": second}, 1.0, on_lost)
    watch.start()
    assert not done.wait(1.5)  # one that answers with an error lives
    os.kill(other.pid, signum)
    assert done.wait(20)
    assert len(lost) == 1
    assert "actor/1" in lost[0] and "watchdog.silent_seconds" in lost[0]


def test_a_watch_that_is_ended_says_nothing(worker):
    process, address = worker()
    lost = []
    watch = HealthPoll({"actor/0": address}, 1.0, lost.append)
    watch.start()
    watch.end()
    process.kill()
    watch.join(10)
    time.sleep(0.1)
    assert not watch.is_alive() and not lost


def test_a_request_to_stop_is_obeyed_once(tmp_path):
    file, called = tmp_path / "STOP", threading.Event()
    file.touch()  # of an earlier life
    os.utime(file, (1000.0, 1000.0))
    request = StopRequest(file, 2000.0, called.set, every_seconds=0.05)
    assert not file.exists()
    time.sleep(0.2)
    assert not request.asked
    file.touch()
    assert called.wait(10)
    assert request.asked and not file.exists()


def test_a_request_made_while_the_run_was_starting_counts(tmp_path):
    file, called = tmp_path / "STOP", threading.Event()
    file.touch()
    StopRequest(file, time.time() - 60.0, called.set)
    assert called.wait(10) and not file.exists()
