"""AReaL's local scheduler, with GPUs under whatever names they were given.

AReaL 1.0.4 reads CUDA_VISIBLE_DEVICES as numbers, and where it holds UUIDs or the names
of MIG instances, as many clusters and container runtimes write them, sends every worker
to GPU 0. It does nothing with the numbers but hand them out and write them into the
workers' environments, so names do as well.
"""

from __future__ import annotations

import os
import re
from itertools import takewhile

from areal.infra.platforms import current_platform
from areal.infra.scheduler.local import LocalScheduler

from areal_cppo.cluster.worker import StartsOwnWorkers
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import UserError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_KIND = re.compile(r"GPU-|MIG-|(?=\d+$)")


class OwnLocalScheduler(StartsOwnWorkers, LocalScheduler):
    """AReaL's, whose workers listen only where the run may."""


def make_local_scheduler(config: CPPOConfig) -> OwnLocalScheduler:
    """The scheduler that starts workers on this machine, each on its own GPUs.

    Raises
    ------
    UserError
        CUDA_VISIBLE_DEVICES is not a list of different devices.
    """
    names = None  # as AReaL finds them
    if current_platform.device_control_env_var == _VISIBLE:
        names = visible_devices(os.environ.get(_VISIBLE, ""))
    return OwnLocalScheduler(gpu_devices=names, exp_config=config)


def visible_devices(value: str) -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES names, in their order.

    As for CUDA, an empty or negative entry ends the list. Where CUDA would see fewer
    devices than the list has, or none, it is refused: indices mixed with names, and
    devices named twice.

    Raises
    ------
    UserError
        As said.
    """
    entries = [entry.strip() for entry in value.split(",")]
    names = list(takewhile(lambda entry: entry and entry[0] != "-", entries))
    kinds = {_kind(name) for name in names}
    if len(kinds) > 1 or None in kinds or len(set(names)) < len(names):
        raise UserError(
            f"{_VISIBLE}: expected indices, or names that begin with GPU-, or with "
            f"MIG-, each once, found {value!r}; name all devices in one of these ways"
        )
    return names


def _kind(name: str) -> str | None:
    found = _KIND.match(name)
    return found and found[0]
