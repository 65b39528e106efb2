"""AReaL's Slurm scheduler (a Slurm job for each role), with its shortcomings mended.

In AReaL (2.0 notices any job that has ended, too, the rest is as it was in 1.0.4):

1. The trainer builds it without the container's type, its mounts and srun's options, so
   that it always asks for singularity; here they are those of the role's
   `scheduling_spec`.
2. Without a container `env_vars` are dropped, with one they aren't quoted; here they
   are exported before the worker starts.
3. A worker that fails ends its job COMPLETED, since srun's output goes through a pipe,
   and the controller waits for it until a time-out; here the pipe fails with it, and
   any job that has ended is a failure, at once.
4. States of jobs that it doesn't know are a KeyError; here all are known.
5. A configuration without GPUs divides by zero; here it doesn't.
6. Jobs outlive a controller that was killed; here it touches a file every few seconds,
   and a job ends itself when that is no longer done.

What stays: whole nodes only, and jobs that are never requeued by themselves.
"""

from __future__ import annotations

import shlex
from copy import copy
from dataclasses import replace
from pathlib import Path

from areal.infra.scheduler.exceptions import WorkerFailedError
from areal.infra.scheduler.slurm import SlurmScheduler
from areal.infra.utils.launcher import JobState
from areal.infra.utils.slurm import STATUS_MAPPING
from typing_extensions import override

from areal_cppo.cluster.slurm import DeathWatch, slurm
from areal_cppo.cluster.worker import StartsOwnWorkers
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import RunError

# Of all of Slurm's states those that AReaL's table lacks, as it would call them.
MORE_STATES = {
    "BOOT_FAIL": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,  # its jobs are not requeued
    "LAUNCH_FAILED": JobState.FAILED,
    "SPECIAL_EXIT": JobState.FAILED,
    "REVOKED": JobState.CANCELLED,
    "CONFIGURING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "RECONFIG_FAIL": JobState.FAILED,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "UPDATE_DB": JobState.RUNNING,
}
_GOING_ON = (JobState.PENDING, JobState.RUNNING)
_WATCH_SECONDS = 10.0  # a question to slurmctld each
# Network disks show a file's new time late, and clocks differ between machines.
_SILENCE_SECONDS = 300
_LOOK_SECONDS = 30
_LOG_LINES = 5


class SlurmJobsScheduler(StartsOwnWorkers, SlurmScheduler):
    """AReaL's `SlurmScheduler` for `scheduler.type: slurm`."""

    def __init__(self, config: CPPOConfig):
        for state, meaning in MORE_STATES.items():
            STATUS_MAPPING.setdefault(state, meaning)
        super().__init__(exp_config=config)
        self._alive = Path(self._log_path_of("controller")).with_suffix(".alive")
        self._alive = self._alive.absolute()
        self._alive.touch()
        self._watch = DeathWatch(self._find_dead, _WATCH_SECONDS)
        self._watch.start()

    @property
    @override
    def n_gpus_per_node(self) -> int:
        # AReaL divides by it; a role without GPUs takes none whatever it says.
        return max(1, super().n_gpus_per_node)

    @override
    def _generate_sbatch_script(self, *args, schedulings, **kwargs) -> str:
        spec = schedulings[0]
        self.container_type = spec.container_type
        self.container_mounts = spec.mount
        self.srun_additional_args = spec.srun_additional_args
        exports = [
            f"export {k}={shlex.quote(str(v))}" for k, v in spec.env_vars.items()
        ]
        spec = replace(
            spec,
            env_vars={},
            additional_bash_cmds=exports + (spec.additional_bash_cmds or []),
        )
        script = super()._generate_sbatch_script(
            *args, schedulings=[spec, *schedulings[1:]], **kwargs
        )
        return _with_guards(script, self._alive)

    @override
    def _check_job_status(self, role: str) -> None:
        while role in self._colocated_roles:
            role = self._colocated_roles[role]
        super()._check_job_status(role)
        # That one takes a job which ended, in whatever way but two, for a running one.
        state, _ = self._job_status_cache.get(self._jobs[role], (None, 0.0))
        if state is not None and state not in _GOING_ON:
            raise WorkerFailedError(
                f"{role}/*", -1, self._obituary(role, self._jobs[role], state)
            )

    def _find_dead(self) -> str | None:
        self._alive.touch()
        for role, job in copy(self._jobs).items():
            state = _state(job)
            if state is not None and state not in _GOING_ON and role in self._jobs:
                return self._obituary(role, job, state)
        return None

    @override
    def delete_workers(self, role: str | None = None, reverse_order: bool = False):
        if role is None:
            self._watch.stop()
        super().delete_workers(role, reverse_order)

    def _obituary(self, role: str, job: int, state: JobState) -> str:
        last = " ".join(self._read_log_tail(role, _LOG_LINES).split())[-200:]
        return (
            f"the job {job} of the workers of {role} ended ({state.name}) "
            f"while they were needed; finished steps are kept, its log "
            f"{self._log_path_of(role)} ends: {last}"
        )


def _state(job: int) -> JobState | None:
    """The state of a job; None if slurmctld doesn't answer or has forgotten the job."""
    try:
        # AReaL's own question has no time limit.
        shown = slurm("squeue", "-h", "-t", "all", f"--jobs={job}", "-o", "%T")
    except RunError:
        return None
    return STATUS_MAPPING.get(shown.strip())


def _with_guards(script: str, alive: Path) -> str:
    """The same script; a failed worker fails it, a dead controller ends it."""
    lines = script.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    guards = [
        "set -o pipefail # a worker's status is the job's, whoever reads its output",
        f"while sleep {_LOOK_SECONDS}; do",
        f"    touched=$(stat -c %Y {shlex.quote(str(alive))}) || touched=0",
        f"    (($(date +%s) - touched < {_SILENCE_SECONDS})) || break",
        'done && scancel "$SLURM_JOB_ID" & # the controller is gone',
    ]
    return "\n".join([*lines[: last + 1], *guards, *lines[last + 1 :], ""])
