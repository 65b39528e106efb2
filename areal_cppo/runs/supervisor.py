"""Starts a run's controller in a process of its own, watches it, and cleans up.

The supervisor imports neither torch nor areal, so it answers at once. It ends a run
when the controller ends, when a generation server no longer listens, when nothing has
happened for too long, or on Ctrl-C; each time every process that the run started is
ended, wherever it is in the process tree, and what was measured is kept.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal_cppo.errors import RunError
from areal_cppo.serving.processes import end_processes, end_run, run_environment

CONTROLLER = "areal_cppo.training.controller"  # the module to run
PIPE = "AREAL_CPPO_PIPE"  # number of the file descriptor that it talks on
Listener = Callable[[dict[str, Any]], None]

_POLL_SECONDS = 2.0
_STRIKES = 2  # refused connections in a row until a server counts as dead
_CONNECT_SECONDS = 5.0
_GRACE_SECONDS = 5.0


@dataclass
class Limits:
    """How long a run may go without saying anything, in seconds.

    The defaults are for large models on a cluster.
    """

    start: float = 3600.0  # until training begins
    step: float = 7200.0  # between two steps
    end: float = 3600.0  # from the last step to the end


@dataclass
class Outcome:
    """How a run ended."""

    status: int
    error: str | None = None
    folder: Path | None = None


@dataclass
class _Watch:
    """What the supervisor knows of the run so far."""

    servers: list[str] = field(default_factory=list)
    strikes: dict[str, int] = field(default_factory=dict)
    stage: str = "start"
    heard: float = field(default_factory=time.monotonic)
    outcome: Outcome = field(default_factory=lambda: Outcome(1))

    def hear(self, event: dict[str, Any]) -> None:
        self.heard = time.monotonic()
        kind = event["kind"]
        if kind == "run":
            self.outcome.folder = Path(event["folder"])
        elif kind == "training":
            self.servers, self.stage = event["servers"], "step"
        elif kind in ("trained", "stopped"):
            self.servers, self.stage = [], "end"
        elif kind == "error":
            self.outcome.status = event["status"]
            self.outcome.error = event["text"]
            # Who talks to a dead server fails first, with a text that doesn't say so.
            dead = [address for address in self.servers if not _listens(address)]
            if dead and event["status"] == 1:
                self.outcome.error = _obituary(dead[0])

    def check(self, limits: Limits) -> None:
        """Raise `RunError` if a server is gone or the run stands still."""
        for address in self.servers:
            alive = _listens(address)
            self.strikes[address] = 0 if alive else self.strikes.get(address, 0) + 1
            if self.strikes[address] >= _STRIKES:
                raise RunError(_obituary(address))
        silence, limit = time.monotonic() - self.heard, getattr(limits, self.stage)
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
) -> Outcome:
    """Run one experiment to its end, whatever that is.

    Parameters
    ----------
    config, overrides
        The YAML file and its `key=value` overrides.
    log
        File that receives what the controller and AReaL print.
    listener
        Called with each event the controller sends (see
        `areal_cppo.training.controller`), in this process.
    limits
        Of the run's silence.
    """
    run_id = uuid.uuid4().hex
    read, write = os.pipe()
    environment = os.environ | run_environment(run_id) | {PIPE: str(write)}
    command = [sys.executable, "-u", "-m", CONTROLLER]
    with log.open("ab") as stream:
        controller = subprocess.Popen(
            [*command, str(config), *overrides],
            env=environment,
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor only
        )
    os.close(write)
    watch = _Watch()
    try:
        with _sigterm_as_interrupt():
            _listen(read, watch, listener, limits or Limits())
            watch.outcome.status = controller.wait(timeout=_GRACE_SECONDS)
    except KeyboardInterrupt:
        watch.outcome = Outcome(130, "interrupted", watch.outcome.folder)
    except RunError as error:
        watch.outcome = Outcome(error.exit_status, str(error), watch.outcome.folder)
    except subprocess.TimeoutExpired:
        pass  # it said all it had to say, and end_run ends it
    finally:
        os.close(read)
        _end(run_id, controller)
    if watch.outcome.status not in (0, 130) and watch.outcome.error is None:
        watch.outcome.error = _last_words(controller, log)
    return watch.outcome


def _listen(pipe: int, watch: _Watch, listener: Listener, limits: Limits) -> None:
    """Pass on events until the controller closes its end of the pipe."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        next_check = time.monotonic() + _POLL_SECONDS
        while True:
            if selector.select(timeout=_POLL_SECONDS):
                chunk = os.read(pipe, 65536)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    watch.hear(event)
                    listener(event)
            if time.monotonic() >= next_check:
                watch.check(limits)
                next_check = time.monotonic() + _POLL_SECONDS


def _obituary(address: str) -> str:
    return (
        f"the generation server at {address} died: expected it to listen, found its "
        "port closed; finished steps are kept, its last words are in logs/ of the "
        "run's folder"
    )


def _listens(address: str) -> bool:
    """Whether something accepts connections; one that is merely slow does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return True
    except TimeoutError:
        return True
    except OSError:
        return False


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


class _sigterm_as_interrupt:
    """SIGTERM to the supervisor cleans up as Ctrl-C does."""

    def __enter__(self):
        def interrupt(signum, frame):
            raise KeyboardInterrupt

        self.previous = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *exc):
        signal.signal(signal.SIGTERM, self.previous)
