"""How a run was set, from its resolved configuration."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.plan.setting import Setting


@dataclass(frozen=True)
class RunSetting:
    """What a plan takes over from a run, and what can be compared with it.

    Attributes
    ----------
    batch, group
        Prompts a train step, responses a prompt.
    staleness
        `max_head_offpolicyness`.
    concurrent
        `max_concurrent_rollouts`, which is a batch where it is not given.
    servers, ranks
        Generation servers, and data-parallel ranks of the trainer.
    """

    batch: int
    group: int
    staleness: int
    concurrent: int
    servers: int
    ranks: int

    def simulated(self, steps: int, warmup: int, **changes: Any) -> Setting:
        """The run as a setting to simulate, to compare the two; `changes` as in
        `Setting`."""
        return Setting(**asdict(self) | {"steps": steps, "warmup": warmup} | changes)


def run_setting(config: dict[str, Any], folder: str | Path) -> RunSetting:
    """From `config.yaml` of a run's folder.

    Raises
    ------
    UserError
        It is not what a run has there.
    """
    try:
        rollout = config["rollout"]
        batch = int(config["train_dataset"]["batch_size"])
        return RunSetting(
            batch=batch,
            group=int(config["gconfig"]["n_samples"]),
            staleness=int(rollout["max_head_offpolicyness"]),
            concurrent=int(rollout.get("max_concurrent_rollouts") or batch),
            servers=_copies(rollout["backend"]),
            ranks=_copies(config["actor"]["backend"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--run: expected config.yaml of a run in {folder} with rollout, actor, "
            f"train_dataset and gconfig, found it without ({error}); name another "
            "run, or give --rates"
        ) from error


def _copies(backend: str) -> int:
    """Data-parallel size in AReaL's `fsdp:d4p1t2`."""
    found = re.search(r"d(\d+)", backend.partition(":")[2])
    return int(found[1]) if found else 1
