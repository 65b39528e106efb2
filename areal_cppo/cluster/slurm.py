"""Slurm: questions to it, a watch on what runs there, and how a job step begins.

    python -m areal_cppo.cluster.slurm --rank 0 --gpus 2,3 -- COMMAND ...

is what a step runs on its node: it picks its GPUs, then becomes the worker. Every step
of a job is given all the GPUs that the job has on a node, and each worker takes its
own: by position, since Slurm may call them anything. The rank goes into SLURM_PROCID,
where AReaL's worker looks for it; in a step of one task it would be 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from areal_cppo.errors import RunError, UserError

# A client without a controller to answer it blocks for ever.
_CLIENT_SECONDS = 60
DEATH_SIGNAL = signal.SIGUSR2  # USR1 asks for a stop
_REPEAT_SECONDS = 3.0
_REPEATS = 10
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def slurm(*command: str) -> str:
    """What a Slurm client prints; `RunError` of one line if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_CLIENT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise RunError(
            f"{command[0]}: expected Slurm's clients on PATH, found no such command; "
            "in a container, mount the host's (docs/slurm.md)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"{command[0]}: no answer within {_CLIENT_SECONDS} s; is slurmctld up?"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        raise RunError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


def job_nodes(environment: Mapping[str, str]) -> list[str]:
    """Names of the nodes of this job, in Slurm's order; the first runs the script.

    Raises
    ------
    UserError
        This process isn't part of a job.
    """
    names = environment.get("SLURM_JOB_NODELIST")
    if not names or "SLURM_JOB_ID" not in environment:
        raise UserError(
            "scheduler.type: expected allocation inside a Slurm job only, found no "
            "SLURM_JOB_NODELIST; submit with `areal-cppo slurm ... --submit`, or set "
            "scheduler.type=local"
        )
    return slurm("scontrol", "show", "hostnames", names).split()


class DeathWatch:
    """Calls `find_dead` every so often, and ends the run when it finds something.

    The controller may be in the middle of a call of hours. So a thread looks, and has
    the main thread interrupted with a signal whose handler raises. AReaL catches
    exceptions in some places and tries again: the signal is repeated, and in the end
    the process exits.

    Parameters
    ----------
    find_dead
        Says in one line which worker died, or None; called in a thread.
    every_seconds
        Between two calls.
    """

    def __init__(self, find_dead: Callable[[], str | None], every_seconds: float):
        self._find_dead = find_dead
        self._every = every_seconds
        self._stopped = threading.Event()
        self._found = ""
        self._thread = threading.Thread(
            target=self._run, name="death-watch", daemon=True
        )

    def start(self) -> None:
        """Begin to watch; from the main thread, which is the one to be interrupted."""
        signal.signal(DEATH_SIGNAL, self._raise)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what dies afterwards is supposed to."""
        self._stopped.set()

    def _raise(self, signum, frame) -> None:
        if self._found and not self._stopped.is_set():
            raise RunError(self._found)

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            found = self._find_dead()
            if found:
                self._found = found
                self._interrupt()
                return

    def _interrupt(self) -> None:
        main = threading.main_thread()
        for _ in range(_REPEATS):
            signal.pthread_kill(main.ident, DEATH_SIGNAL)
            if self._stopped.wait(_REPEAT_SECONDS):
                return
        print(self._found, file=sys.stderr, flush=True)
        os._exit(RunError.exit_status)


def worker_environment(
    base: Mapping[str, str], rank: int, positions: list[int]
) -> dict[str, str]:
    """The environment of a worker.

    Parameters
    ----------
    base
        The step's, as Slurm made it.
    rank
        Of the worker in its role.
    positions
        Of its GPUs among those that Slurm gave to the step; empty: it sees none.
    """
    given = [name for name in base.get(_VISIBLE, "").split(",") if name]
    if positions and max(positions) >= len(given):
        raise SystemExit(
            f"step: expected {max(positions) + 1} or more GPUs on this node, found "
            f"{_VISIBLE}={base.get(_VISIBLE, '')!r}; does the job ask for --gres=gpu:N?"
        )
    mine = ",".join(given[position] for position in positions)
    return {**base, _VISIBLE: mine, "SLURM_PROCID": str(rank)}


def main(argv: list[str]) -> None:
    """Become the worker; returns only by an exception."""
    cut = argv.index("--")
    options = dict(zip(argv[:cut:2], argv[1:cut:2], strict=True))
    positions = [int(name) for name in options["--gpus"].split(",") if name]
    environment = worker_environment(os.environ, int(options["--rank"]), positions)
    command = argv[cut + 1 :]
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
