"""Lets everything that a run starts listen only where it has to."""

from __future__ import annotations

import os
from functools import wraps

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import UserError
from areal_cppo.serving.listen import (
    LISTEN_VARIABLE,
    LOOPBACK,
    NODE,
    narrow_this_process,
)

AREAL_WORKER = "areal.infra.rpc.rpc_server"
WORKER = "areal_cppo.cluster.worker"


def apply_listen_host(config: CPPOConfig) -> str:
    """Narrow the controller and all that it will start; returns its address.

    To be called in the controller once the configuration is read, before the trainer
    is made. Loopback where the run is on one machine (`scheduler.type: local` and
    `cluster.n_nodes: 1`), otherwise the node's address, unless `AREAL_CPPO_LISTEN`
    says something else; see `areal_cppo.serving.listen.listen_address`.

    Raises
    ------
    UserError
        This machine has no such address; or loopback for a run on several.
    """
    alone = config.scheduler.type == "local" and config.cluster.n_nodes == 1
    choice = os.environ.get(LISTEN_VARIABLE) or (LOOPBACK if alone else NODE)
    if choice == LOOPBACK and not alone:
        raise UserError(
            f"{LISTEN_VARIABLE}: expected an address that other nodes reach, found "
            f"{LOOPBACK} with scheduler.type={config.scheduler.type} and "
            f"cluster.n_nodes={config.cluster.n_nodes}; set it to {NODE}, or to an "
            "interface, network or address of the nodes"
        )
    os.environ[LISTEN_VARIABLE] = choice
    roles = (config.actor, config.ref, config.critic, config.rollout, config.teacher)
    for role in roles:
        for spec in role.scheduling_spec if role is not None else ():
            spec.cmd = own_worker(spec.cmd)
    _start_ours(config.scheduler.type)
    return narrow_this_process()


def own_worker(command: str | None) -> str:
    """AReaL's command that starts a worker, with ours in the place of its."""
    return (command or f"python3 -m {AREAL_WORKER}").replace(AREAL_WORKER, WORKER)


def _start_ours(scheduler: str) -> None:
    """Let a worker that AReaL starts from another one be ours, too."""
    if scheduler == "local":
        from areal.infra.scheduler.local import LocalScheduler as Scheduler
    elif scheduler == "slurm":
        from areal.infra.scheduler.slurm import SlurmScheduler as Scheduler
    else:
        return  # Ray has actors instead of RPC workers
    fork = Scheduler._fork_single_worker
    if hasattr(fork, "__wrapped__"):
        return

    @wraps(fork)
    async def fork_ours(
        self, session, role, idx, target_wi, target_role, command: str | None = None
    ):
        return await fork(
            self, session, role, idx, target_wi, target_role, command or WORKER
        )

    Scheduler._fork_single_worker = fork_ours
