"""Where a run's workers are started: this machine, an allocation, Slurm jobs, Ray.

A worker is AReaL's RPC server; a trainer's holds one rank, a generation worker starts
one SGLang server beside itself. Importing this package imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from areal_cppo.config import SCHEDULERS
from areal_cppo.errors import UserError

if TYPE_CHECKING:
    from areal.api import Scheduler

    from areal_cppo.config.experiment import CPPOConfig


def make_scheduler(config: CPPOConfig) -> Scheduler:
    """The scheduler that `scheduler.type` names.

    `local` starts workers on this machine, `allocation` as steps of the Slurm job that
    this process is part of, `slurm` as Slurm jobs of their own, `ray` as Ray actors.

    Raises
    ------
    UserError
        Another type is named, or `allocation` outside a Slurm job or in one of the
        wrong size; or CUDA_VISIBLE_DEVICES is no list of different devices.
    """
    kind = config.scheduler.type
    if kind == "local":
        from areal_cppo.cluster.local import make_local_scheduler

        return make_local_scheduler(config)
    if kind == "allocation":
        from areal_cppo.cluster.allocation import AllocationScheduler

        return AllocationScheduler.from_environment(config)
    if kind == "slurm":
        from areal_cppo.cluster.jobs import SlurmJobsScheduler

        return SlurmJobsScheduler(config)
    if kind == "ray":
        from areal_cppo.cluster.ray_actors import RayActorsScheduler

        return RayActorsScheduler(config)
    raise UserError(
        f"scheduler.type: expected one of {', '.join(SCHEDULERS)}, found {kind!r}; "
        "local is for one machine, allocation for a job that `areal-cppo slurm` wrote"
    )
