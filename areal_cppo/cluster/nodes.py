"""Questions to Slurm, and the nodes of the job that this process is part of."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from areal_cppo.errors import RunError, UserError

# A client without a controller to answer it blocks for ever.
_CLIENT_SECONDS = 60


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
