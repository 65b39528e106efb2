"""Starts a run's controller in a process of its own, watches it, and cleans up.

The supervisor imports neither torch nor areal, so it answers at once. A life of a run
ends when the controller ends, when it shows no sign of life, when nothing has happened
for too long, or by a signal; each time every process that the run started is ended,
wherever it is in the process tree, and what was measured is kept. After a failure the
run is started again, to go on from its last checkpoint, if it is configured so and
has ever got as far as training.

| signal | what becomes of the run |
| --- | --- |
| SIGUSR1 | asked to stop: it finishes its step and writes a checkpoint; status 75 |
| SIGTERM | the same, within `recover.grace_seconds`; then it is ended, status 143 |
| SIGINT | ended, status 130 |
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal_cppo.errors import RunError
from areal_cppo.folder import RunFolder
from areal_cppo.run.stop import STOPPED, Signals
from areal_cppo.serving.processes import end_processes, end_run, run_environment

CONTROLLER = "areal_cppo.run.controller"  # the module to run
Listener = Callable[[dict[str, Any]], None]

INTERRUPTED, TERMINATED = 130, 143
_FINAL = (0, 2, STOPPED, INTERRUPTED, TERMINATED)  # not to be tried again
_POLL_SECONDS = 2.0
_GRACE_SECONDS = 5.0
_TELL_SECONDS = 60.0  # of silence before training begins


@dataclass
class Limits:
    """How long a run may go without saying anything, in seconds.

    Until the run says its own, the block `watchdog` of its configuration.
    """

    start: float = 3600.0  # until training begins
    step: float = 7200.0  # between two steps
    end: float = 3600.0  # from the last step to the end
    silent: float = 120.0  # between two signs of life


@dataclass
class RunEnd:
    """How a run ended."""

    status: int
    error: str | None = None
    folder: Path | None = None


@dataclass
class _Life:
    """What the supervisor knows of the run since its controller was started."""

    limits: Limits
    stage: str = "start"
    heard: float = field(default_factory=time.monotonic)
    alive: float = field(default_factory=time.monotonic)
    told: float = 0.0  # of how much silence
    step: int = 0
    retries: int = 0
    grace: float = 0.0
    restart: bool = True
    outcome: RunEnd = field(default_factory=lambda: RunEnd(1))

    def hear(self, event: dict[str, Any]) -> None:
        self.alive = time.monotonic()
        kind = event["kind"]
        if kind == "alive":
            return
        self.heard, self.told = self.alive, 0.0
        if kind == "run":
            self.outcome.folder = Path(event["folder"])
            self.retries = event.get("retries", 0)
            self.grace = event.get("grace", 0.0)
            self.limits = (
                Limits(**event["limits"]) if "limits" in event else self.limits
            )
        elif kind == "training":
            self.stage = "step"
        elif kind == "step":
            self.step = event["record"]["step"]
        elif kind in ("trained", "stopped"):
            self.stage = "end"
        elif kind == "error":
            self.outcome.status = event["status"]
            self.outcome.error = event["text"]
            self.restart = event.get("restart", True)

    def waiting(self) -> str | None:
        """What to say when another minute has passed before training begins."""
        silence = time.monotonic() - self.heard
        if self.stage != "start" or silence < self.told + _TELL_SECONDS:
            return None
        self.told = silence
        return f"still at it, {silence:.0f} s (limit {self.limits.start:.0f} s)"

    def check(self) -> None:
        """Raise `RunError` if the run stands still."""
        now = time.monotonic()
        if now - self.alive > self.limits.silent:
            raise RunError(
                f"the controller showed no sign of life for {now - self.alive:.0f} s "
                f"(limit {self.limits.silent:.0f} s): the run was ended; see logs/ of "
                "its folder"
            )
        silence, limit = now - self.heard, getattr(self.limits, self.stage)
        if silence > limit:
            raise RunError(
                f"nothing happened for {silence:.0f} s (stage: {self.stage}, limit "
                f"{limit:.0f} s): the run was ended; see logs/ of its folder"
            )


def supervise(
    config: str | Path,
    overrides: list[str],
    log: Path,
    listener: Listener,
    limits: Limits | None = None,
) -> RunEnd:
    """Run one experiment to its end, whatever that is.

    Parameters
    ----------
    config, overrides
        The YAML file and its `key=value` overrides.
    log
        File that receives what the controller and AReaL print.
    listener
        Called with each event the controller sends (see
        `areal_cppo.run.controller`), in this process.
    limits
        Of the run's silence, until it says its own.
    """
    run_id = uuid.uuid4().hex
    failures, best = 0, -1
    with Signals() as signals:
        while True:
            life = _live(
                run_id, [str(config), *overrides], log, listener, limits, signals
            )
            outcome = life.outcome
            never_trained = best < 0 and life.stage == "start"
            if (
                outcome.status in _FINAL
                or not life.restart
                or never_trained
                or signals.any
            ):
                return outcome
            failures, best = (
                (failures + 1, best) if life.step <= best else (1, life.step)
            )
            if failures > life.retries:
                if life.retries:
                    outcome.error = (
                        f"{outcome.error} (started again {life.retries} times without "
                        "a new step)"
                    )
                return outcome
            _say_again(outcome, failures, life.retries, listener)


def _say_again(outcome: RunEnd, failures: int, retries: int, listener) -> None:
    """Tell that the run is started again, and why."""
    if outcome.folder is not None and outcome.folder.is_dir():
        RunFolder(outcome.folder).event(
            "restarting", reason=outcome.error, status=outcome.status
        )
    listener(
        {
            "kind": "note",
            "text": f"{outcome.error}; starting again from the last checkpoint "
            f"({failures} of {retries})",
        }
    )


def _live(
    run_id: str,
    arguments: list[str],
    log: Path,
    listener: Listener,
    limits: Limits | None,
    signals: Signals,
) -> _Life:
    """Start the controller, listen to it until it ends, and clean up."""
    read, write = os.pipe()
    environment = os.environ | run_environment(run_id)
    with log.open("ab") as stream:
        controller = subprocess.Popen(
            [sys.executable, "-u", "-m", CONTROLLER, str(write), *arguments],
            env=environment,
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor only
        )
    os.close(write)
    life = _Life(limits or Limits())
    try:
        _listen(read, life, listener, signals)
        life.outcome.status = controller.wait(timeout=_GRACE_SECONDS)
    except KeyboardInterrupt:
        status = TERMINATED if signals.terminated else INTERRUPTED
        life.outcome = RunEnd(status, "interrupted", life.outcome.folder)
    except RunError as error:
        life.outcome = RunEnd(error.exit_status, str(error), life.outcome.folder)
    except subprocess.TimeoutExpired:
        pass  # it said all it had to say, and end_run ends it
    finally:
        os.close(read)
        _end(run_id, controller)
    if life.outcome.status not in _FINAL and life.outcome.error is None:
        life.outcome.error = _last_words(controller, log)
    return life


def _listen(pipe: int, life: _Life, listener: Listener, signals: Signals) -> None:
    """Pass on events until the controller closes its end of the pipe."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(signals.pipe, selectors.EVENT_READ)
        next_check = time.monotonic() + _POLL_SECONDS
        while True:
            ready = [key.fd for key, _ in selector.select(timeout=_POLL_SECONDS)]
            if pipe in ready:
                chunk = os.read(pipe, 65536)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    life.hear(event)
                    if event["kind"] != "alive":
                        listener(event)
            signals.obey(life.outcome.folder, life.grace)
            if time.monotonic() >= next_check:
                life.check()
                if text := life.waiting():
                    listener({"kind": "note", "text": text})
                next_check = time.monotonic() + _POLL_SECONDS


def _end(run_id: str, controller: subprocess.Popen) -> None:
    """End the controller's process group and every process marked as of the run."""
    try:
        end_run(run_id, grace_seconds=_GRACE_SECONDS)
    except KeyboardInterrupt:  # an impatient second Ctrl-C: no more grace
        end_run(run_id, grace_seconds=0.0)
    if controller.poll() is None:
        import psutil

        end_processes([psutil.Process(controller.pid)], 0.0)
    controller.wait()


def _last_words(controller: subprocess.Popen, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = f"; its log ends: {lines[-1][:200]}" if lines else ""
    return f"the controller ended with status {controller.returncode}{said}"
