"""AReaL's RPC worker, listening where the run may, and what starts it in its place.

`python -m areal_cppo.cluster.worker` takes the arguments of AReaL's own,
`areal.infra.rpc.rpc_server`; `--host` is answered by `areal_cppo.serving.listen`. Who
can reach a worker's port can run any command as the run's user (`docs/security.md`).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from typing_extensions import override

from areal_cppo.errors import UserError
from areal_cppo.patches.contracts import check_upstream
from areal_cppo.serving.listen import (
    LISTEN_VARIABLE,
    LOOPBACK,
    NODE,
    narrow_this_process,
)
from areal_cppo.serving.redaction import redact_logs

if TYPE_CHECKING:
    from areal_cppo.config.experiment import CPPOConfig

AREAL_WORKER = "areal.infra.rpc.rpc_server"
WORKER = "areal_cppo.cluster.worker"


class StartsOwnWorkers:
    """Before a scheduler of AReaL's: a worker that starts another one starts ours."""

    @override
    async def _fork_single_worker(
        self, session, role, idx, target_wi, target_role, command=None
    ):
        return await super()._fork_single_worker(
            session, role, idx, target_wi, target_role, command or WORKER
        )


def own_worker(command: str | None) -> str:
    """AReaL's command that starts a worker, with ours in the place of its."""
    return (command or f"python3 -m {AREAL_WORKER}").replace(AREAL_WORKER, WORKER)


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
    return narrow_this_process()


def main() -> None:
    """Be a worker until AReaL ends it."""
    from areal.infra.rpc import rpc_server

    # AReaL says 0.0.0.0 when one worker starts another; the last --host counts.
    sys.argv += ["--host", narrow_this_process()]
    redact_logs()
    check_upstream()
    rpc_server.main()


if __name__ == "__main__":
    main()
