"""The supervisor: every way in which a run ends, with a stand-in for the controller.

The real controller, AReaL and SGLang are in tests/test_demo.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from fake_controller import CHILD

from areal_cppo.runs import supervisor
from areal_cppo.runs.supervisor import Limits, supervise


def is_child(process: psutil.Process) -> bool:
    """Whether it is what the stand-in starts."""
    try:
        return process.cmdline() == list(CHILD)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a scenario; returns the outcome, the events, and the seconds it took."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(supervisor, "CONTROLLER", "fake_controller")
    monkeypatch.setattr(supervisor, "_POLL_SECONDS", 0.2)

    def run(scenario: str, limits: Limits | None = None):
        before = {process.pid for process in psutil.process_iter()}
        events, begin = [], time.monotonic()
        log = tmp_path / "log"
        outcome = supervise(
            scenario, [str(tmp_path)], log, events.append, limits or Limits()
        )
        seconds = time.monotonic() - begin
        started = [p for p in psutil.process_iter() if p.pid not in before]
        left = [p for p in started if is_child(p) and p.status() != "zombie"]
        assert not left, "an orphan is left"
        assert "hello from the log" in log.read_text()
        return outcome, events, seconds

    return run


def test_success(run, tmp_path):
    outcome, events, _ = run("success")
    assert (outcome.status, outcome.error) == (0, None)
    assert outcome.folder == tmp_path
    assert [event["kind"] for event in events] == ["run"]


def test_a_users_mistake_keeps_its_status_and_line(run):
    outcome, _, _ = run("user error")
    assert (outcome.status, outcome.error) == (2, "expected a, found b; do c")


def test_a_crash_is_told_with_the_last_line_of_the_log(run):
    outcome, _, _ = run("crash")
    assert outcome.status == 7
    assert "the last line of the log" in outcome.error


@pytest.mark.parametrize("scenario", ["server dies", "server dies, controller fails"])
def test_a_dead_server_ends_the_run(run, scenario):
    """Whoever notices first, the line names the server."""
    outcome, _, seconds = run(scenario)
    assert outcome.status == 1
    assert "generation server" in outcome.error and "\n" not in outcome.error
    assert seconds < 30


def test_a_silent_run_ends(run):
    outcome, _, seconds = run("silence", Limits(step=1.0))
    assert outcome.status == 1
    assert "nothing happened" in outcome.error
    assert seconds < 30


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends(run, signum):
    timer = threading.Timer(3.0, os.kill, (os.getpid(), signum))
    timer.start()
    outcome, _, seconds = run("forever")
    timer.join()
    assert (outcome.status, outcome.error) == (130, "interrupted")
    assert seconds < 30
