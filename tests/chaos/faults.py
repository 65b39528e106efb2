"""The faults: each does to a living run what machines, users and schedulers do.

| `leads to` | the run |
| --- | --- |
| `survives` | trains on with the other server; the one that was hit comes back |
| `restarts` | is started again by its supervisor, in the same command |
| `ends` | ends; the same command is given again |
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.chaos.impostor import Impostor
from tests.chaos.stack import STEP_SECONDS, Stack

SURVIVES, RESTARTS, ENDS = "survives", "restarts", "ends"
_SLOW_SECONDS = 20.0
_SLOW_SHARE = 0.85  # of the time a slow server stands still


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes
    ----------
    inject
        Does it; says what it did. It may wait for its moment.
    statuses
        With which the command may end, where the fault leads to that.
    steps_lost
        Most finished steps that may have to be done again.
    hits_server
        One of the servers is hit, and has to come back.
    """

    name: str
    title: str
    leads_to: str
    inject: Callable[[Stack, random.Random], str]
    statuses: tuple[int, ...] = ()
    steps_lost: int = 1
    hits_server: bool = False


def _pick(stack: Stack, role: str, rng: random.Random) -> psutil.Process:
    return rng.choice(
        stack.wait(f"a {role}", lambda: stack.processes(role), STEP_SECONDS)
    )


def _signal(role: str, number: signal.Signals):
    def inject(stack: Stack, rng: random.Random) -> str:
        process = _pick(stack, role, rng)
        process.send_signal(number)
        return f"{number.name} to {role} {process.pid}"

    return inject


def _slow(stack: Stack, rng: random.Random) -> str:
    """Let a server work in short gasps for a while."""
    process = _pick(stack, "scheduler", rng)
    period = rng.uniform(0.5, 3.0)

    def gasp() -> None:
        end = time.monotonic() + _SLOW_SECONDS
        try:
            while time.monotonic() < end:
                process.send_signal(signal.SIGSTOP)
                time.sleep(period * _SLOW_SHARE)
                process.send_signal(signal.SIGCONT)
                time.sleep(period * (1 - _SLOW_SHARE))
        except psutil.NoSuchProcess:  # it was ended as if it hung
            pass

    threading.Thread(target=gasp, daemon=True).start()
    share = f"{_SLOW_SHARE:.0%} of {_SLOW_SECONDS:.0f} s, period {period:.1f} s"
    return f"scheduler {process.pid} stands still {share}"


def _take_port(stack: Stack, rng: random.Random) -> str:
    """A server dies, and another program has its port before it is back."""
    process = _pick(stack, "server", rng)
    (port,) = {
        found.laddr.port
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }
    process.kill()
    seconds = rng.uniform(10.0, 40.0)
    Impostor(port, rng).leave_after(seconds)
    return f"SIGKILL to server {process.pid}, nonsense on its port for {seconds:.0f} s"


def _wait_for_update(stack: Stack, loading: bool) -> None:
    """Until the trainer writes new weights for the servers, or they load them."""
    began = time.time()
    pattern = "**/update_weights_from_disk/*/ENTRY" if loading else "**/weight_update*"
    folder = stack.run / "areal" / ("name_resolve" if loading else "checkpoints")

    def under_way() -> bool:
        for path in folder.glob(pattern):
            try:
                if path.stat().st_mtime > began:
                    return True
            except FileNotFoundError:
                continue
        return False

    stack.wait("a weight update", under_way, STEP_SECONDS, poll=0.01)


def _in_update(role: str, loading: bool):
    """SIGKILL to a process while weights are written or loaded."""

    def inject(stack: Stack, rng: random.Random) -> str:
        process = _pick(stack, role, rng)
        delay = rng.uniform(0.0, 0.15)
        _wait_for_update(stack, loading)
        time.sleep(delay)
        process.kill()
        when = "servers loaded" if loading else "the trainer wrote"
        return f"SIGKILL to {role} {process.pid}, {delay:.2f} s after {when} weights"

    return inject


def _command(number: signal.Signals):
    """A signal to the command itself, as a scheduler or a user sends it."""

    def inject(stack: Stack, rng: random.Random) -> str:
        stack.process.send_signal(number)
        return f"{number.name} to areal-cppo"

    return inject


def _stop_file(stack: Stack, rng: random.Random) -> str:
    (stack.run / "STOP").touch()
    return "file STOP in the run's folder"


def _lose_node(stack: Stack, rng: random.Random) -> str:
    """Everything dies at once, nobody has a last word."""
    processes = stack.processes()
    rng.shuffle(processes)
    for process in processes:
        process.suspend()  # or some would see others die
    for process in processes:
        process.kill()
    return f"SIGKILL to all {len(processes)} processes"


def _tear_checkpoint(stack: Stack, rng: random.Random) -> str:
    """All dies; of the newest checkpoint a file is cut, as if not yet on the disk."""
    stack.wait(
        "two checkpoints",
        lambda: len(list((stack.run / "recover").glob("step-?????"))) >= 2,
        STEP_SECONDS,
    )
    _lose_node(stack, rng)
    newest = max((stack.run / "recover").glob("step-?????"))
    files = [f for f in sorted(newest.rglob("*")) if f.is_file() and f.stat().st_size]
    file = rng.choice(files)
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(rng.randrange(size))
    return f"SIGKILL to all, {newest.name}/{file.relative_to(newest)} cut"


def _server(name: str, title: str, inject) -> Fault:
    return Fault(name, title, SURVIVES, inject, hits_server=True)


_KILL, _STOP = signal.SIGKILL, signal.SIGSTOP

FAULTS = {
    fault.name: fault
    for fault in (
        _server("server-kill", "SIGKILL of a server", _signal("server", _KILL)),
        _server(
            "scheduler-kill",
            "SIGKILL of a server's scheduler",
            _signal("scheduler", _KILL),
        ),
        _server(
            "detokenizer-kill",
            "SIGKILL of a server's detokenizer",
            _signal("detokenizer", _KILL),
        ),
        _server("server-stop", "SIGSTOP of a server", _signal("server", _STOP)),
        _server(
            "scheduler-stop",
            "SIGSTOP of a server's scheduler",
            _signal("scheduler", _STOP),
        ),
        _server(
            "server-nonsense",
            "a server's port taken by a program that answers nonsense",
            _take_port,
        ),
        _server("server-slow", "a slow server", _slow),
        _server(
            "update-server-kill",
            "SIGKILL of a server while it loads weights",
            _in_update("server", True),
        ),
        Fault(
            "reward-kill",
            "SIGKILL of a reward process",
            SURVIVES,
            _signal("reward process", _KILL),
        ),
        Fault(
            "trainer-kill",
            "SIGKILL of the trainer",
            RESTARTS,
            _signal("trainer", _KILL),
        ),
        Fault(
            "trainer-stop",
            "SIGSTOP of the trainer",
            RESTARTS,
            _signal("trainer", _STOP),
        ),
        Fault(
            "update-trainer-kill",
            "SIGKILL of the trainer while it writes weights",
            RESTARTS,
            _in_update("trainer", False),
        ),
        Fault(
            "rollout-kill",
            "SIGKILL of a rollout worker",
            RESTARTS,
            _signal("rollout worker", _KILL),
        ),
        Fault(
            "rollout-stop",
            "SIGSTOP of a rollout worker",
            RESTARTS,
            _signal("rollout worker", _STOP),
        ),
        Fault(
            "controller-kill",
            "SIGKILL of the controller",
            RESTARTS,
            _signal("controller", _KILL),
        ),
        Fault(
            "controller-stop",
            "SIGSTOP of the controller",
            RESTARTS,
            _signal("controller", _STOP),
        ),
        Fault(
            "supervisor-kill",
            "SIGKILL of areal-cppo itself",
            ENDS,
            _command(_KILL),
            (-_KILL,),
        ),
        Fault("node-lost", "SIGKILL of everything", ENDS, _lose_node, (-_KILL,)),
        Fault(
            "checkpoint-torn",
            "SIGKILL of everything, newest checkpoint torn",
            ENDS,
            _tear_checkpoint,
            (-_KILL,),
            steps_lost=2,
        ),
        Fault(
            "preempt",
            "SIGTERM, as preemption sends it",
            ENDS,
            _command(signal.SIGTERM),
            (75, 143),
        ),
        Fault(
            "requeue",
            "SIGUSR1, as before a time limit",
            ENDS,
            _command(signal.SIGUSR1),
            (75,),
            steps_lost=0,
        ),
        Fault("stop-file", "the file STOP", ENDS, _stop_file, (75,), steps_lost=0),
    )
}
