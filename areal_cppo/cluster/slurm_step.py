"""What a job step runs on its node: picks its GPUs, then becomes the worker.

    python -m areal_cppo.cluster.slurm_step --rank 0 --gpus 2,3 -- COMMAND ...

Every step of a job is given all the GPUs that the job has on a node, and each worker
takes its own: by position, since Slurm may call them anything. The rank goes into
SLURM_PROCID, where AReaL's worker looks for it; in a step of one task it would be 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_VISIBLE = "CUDA_VISIBLE_DEVICES"


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
