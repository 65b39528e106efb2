"""The supervisor: every way in which a run ends, with a stand-in for the controller.

The real controller, AReaL and SGLang are in tests/test_demo.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from areal_cppo.folder import read_lines
from areal_cppo.run import supervisor
from areal_cppo.run.supervisor import Limits, supervise
from tests.run.fake_controller import CHILD


def is_child(process: psutil.Process) -> bool:
    """Whether it is what the stand-in starts."""
    try:
        return process.cmdline() == list(CHILD)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a scenario; returns the outcome, the events, and the seconds it took.

    `signals` are sent to this process once the run trains, a second apart.
    """
    monkeypatch.setattr(supervisor, "CONTROLLER", "tests.run.fake_controller")
    monkeypatch.setattr(supervisor, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "_GRACE_SECONDS", 1.0)

    def run(scenario: str, limits: Limits | None = None, signals: Sequence[int] = ()):
        before = {process.pid for process in psutil.process_iter()}
        events, timers, begin = [], [], time.monotonic()
        log = tmp_path / "log"

        def listen(event):
            events.append(event)
            if event["kind"] == "training":
                for seconds, signum in enumerate(signals):
                    kill = (os.getpid(), signum)
                    timers.append(threading.Timer(0.1 + seconds, os.kill, kill))
                    timers[-1].start()

        outcome = supervise(scenario, [str(tmp_path)], log, listen, limits or Limits())
        seconds = time.monotonic() - begin
        for timer in timers:
            timer.join()
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
    assert lives(tmp_path) == 1


def test_a_users_mistake_keeps_its_status_and_line(run):
    outcome, _, _ = run("user error")
    assert (outcome.status, outcome.error) == (2, "expected a, found b; do c")


def test_a_crash_is_told_with_the_last_line_of_the_log(run):
    outcome, _, _ = run("crash")
    assert outcome.status == 7
    assert "the last line of the log" in outcome.error


def lives(folder: Path) -> int:
    return len((folder / "lives").read_text().split())


def restarts(folder: Path) -> list[str]:
    lines = read_lines(folder / "events.jsonl")
    return [line["reason"] for line in lines if line["event"] == "restarting"]


@pytest.mark.parametrize(
    ("scenario", "limit"),
    [("silence", "no sign of life"), ("stands still", "nothing happened")],
)
def test_a_run_that_gets_nowhere_ends(run, scenario, limit):
    """By the limits that it has said itself; it is tried again, and tells so."""
    outcome, _, seconds = run(scenario)
    assert outcome.status == 1
    assert limit in outcome.error and "started again 2 times" in outcome.error
    assert "\n" not in outcome.error
    assert seconds < 60


def test_before_it_says_its_own_the_callers_limits_hold(run, monkeypatch):
    monkeypatch.setattr(supervisor, "_TELL_SECONDS", 0.5)
    outcome, events, _ = run("no folder yet", Limits(start=1.5))
    assert "nothing happened" in outcome.error
    told = [event["text"] for event in events if event["kind"] == "note"]
    assert 1 <= len(told) <= 3 and all("still at it" in text for text in told)


@pytest.mark.parametrize("scenario", ["fails once", "is killed once"])
def test_after_a_failure_it_is_started_again(run, tmp_path, scenario):
    outcome, events, _ = run(scenario)
    assert (outcome.status, outcome.error) == (0, None)
    assert lives(tmp_path) == 2
    assert len(restarts(tmp_path)) == 1
    notes = [event["text"] for event in events if event["kind"] == "note"]
    assert len(notes) == 1 and "starting again" in notes[0] and "1 of 2" in notes[0]


def test_a_stopped_controller_is_ended_and_started_again(run, tmp_path):
    outcome, _, seconds = run("is stopped once")
    assert outcome.status == 0
    assert lives(tmp_path) == 2
    assert "no sign of life" in restarts(tmp_path)[0]
    assert seconds < 30


def test_failures_without_a_new_step_are_limited(run, tmp_path):
    outcome, _, _ = run("fails again and again")
    assert outcome.status == 1
    assert outcome.error.startswith("the worker actor/0 died (started again 2 times")
    assert lives(tmp_path) == 3


def test_failures_with_new_steps_in_between_are_not(run, tmp_path):
    outcome, _, _ = run("gets on")
    assert outcome.status == 0
    assert lives(tmp_path) == 6


@pytest.mark.parametrize(
    "scenario", ["gives up", "fails, no recovery", "fails at the start"]
)
def test_what_would_fail_again_is_not_tried_again(run, tmp_path, scenario):
    outcome, _, _ = run(scenario)
    assert (outcome.status, outcome.error) == (1, "the worker actor/0 died")
    assert lives(tmp_path) == 1


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_run_ends(run, tmp_path, signum, status):
    outcome, _, seconds = run("forever", signals=[signum])
    assert (outcome.status, outcome.error) == (status, "interrupted")
    assert lives(tmp_path) == 1
    assert seconds < 30


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_asked_to_stop_it_stops_and_can_be_gone_on_with(run, tmp_path, signum):
    outcome, _, _ = run("obeys", signals=[signum])
    assert (outcome.status, outcome.error) == (75, "stopped after step 3, as asked")
    assert lives(tmp_path) == 1


def test_after_its_grace_it_is_ended(run):
    outcome, _, seconds = run("deaf", signals=[signal.SIGTERM])
    assert (outcome.status, outcome.error) == (143, "interrupted")
    assert seconds < 30


def test_without_grace_usr1_waits(run):
    """A request to stop has no time limit of its own; a second signal ends it."""
    outcome, _, seconds = run("forever", signals=[signal.SIGUSR1, signal.SIGTERM])
    assert outcome.status == 143
    assert seconds > 1.0
