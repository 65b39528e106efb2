"""Patches of AReaL: where it listens, what it logs, how its servers are started, which
cores a trainer's rank runs on.

Links show a commit whose files are those of the published 1.0.4.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from areal_cppo.patches.upstream import ChangedUpstream, expect_inside, patch
from areal_cppo.patches.version import installed, sglang_package

_SGLANG = sglang_package()
_START = f"{_SGLANG}.launch_server:areal_launch_server"


@patch(
    "areal.utils.network:gethostip",
    signature="(probe_host='8.8.8.8', probe_port=80)",
    copies="areal",
)
def gethostip(original: Callable, address: str) -> Callable:
    """It answers `address`, wherever it was imported to.

    AReaL's callback server and SGLang's HTTP listen on what it finds: an address of the
    node that others reach, also where the run is on one machine.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/utils/network.py#L12
    """

    @wraps(original)
    def answer(*args: Any, **kwargs: Any) -> str:
        return address

    return answer


@patch("areal.utils.network:random")
def find_free_ports(original: ModuleType) -> random.Random:
    """It draws ports by chance, not by the run's seed.

    Runs of one seed on one machine would draw the same ports at the same time, and one
    would take the other's worker for its own.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/utils/network.py#L114
    """
    expect_inside("areal.utils.network:find_free_ports", "random", "randint")
    return random.SystemRandom()


@patch(
    "areal.infra.utils.http:arequest_with_retry",
    signature="(addr, endpoint, payload=None, session=None, method='POST', "
    "max_retries=None, timeout=None, retry_delay=1.0, verbose=False)",
    copies="areal",
)
def arequest_with_retry(original: Callable, redact: Callable[[str], str]) -> Callable:
    """It raises without the request in its text, which `redact` takes out.

    AReaL puts the whole payload there: token ids of the prompt and its images in
    base64. Whoever logs that error, or prints its traceback, logs them.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/infra/utils/http.py
    """
    place = "areal.infra.utils.http:arequest_with_retry"
    expect_inside(place, "RuntimeError", "Payload: ", ". Addr: ")

    @wraps(original)
    async def without_payload(*args: Any, **kwargs: Any) -> Any:
        try:
            return await original(*args, **kwargs)
        except RuntimeError as error:
            raise RuntimeError(redact(str(error))) from None

    return without_payload


@patch(f"{_SGLANG}.awex:register_awex_endpoints", signature="(app, rpc_proxy)")
def register_awex_endpoints(
    original: Callable, add: Callable[[Any, Any], None]
) -> Callable:
    """`add(app, rpc_proxy)` is called as well, before a server serves.

    AReaL's launcher has no hook for more endpoints, or for middleware.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/experimental/inference_service/sglang/awex.py
    """
    expect_inside(_START, "register_awex_endpoints")

    @wraps(original)
    def register_all(app: Any, rpc_proxy: Any) -> None:
        original(app, rpc_proxy)
        add(app, rpc_proxy)

    return register_all


@patch(
    f"{_SGLANG}.scheduler:areal_run_scheduler_process",
    signature="(server_args, port_args, gpu_id, tp_rank, attn_cp_rank, moe_dp_rank, "
    "moe_ep_rank, pp_rank, dp_rank, pipe_writer)",
)
def areal_run_scheduler_process(original: Callable, run: Callable) -> Callable:
    """A server's scheduler processes run `run` in its place, a module's function.

    Patches of what they do can only be made within them.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/experimental/inference_service/sglang/scheduler.py#L130
    """
    expect_inside(_START, "areal_run_scheduler_process")
    return run


@patch(
    "areal.infra.platforms.cuda:CudaPlatform.set_numa_affinity",
    signature="(local_rank)",
)
def set_numa_affinity(original: Callable) -> Callable:
    """A rank's process runs on the cores next to its own GPU.

    Each process sees one GPU, its number 0, and AReaL asks NVML for that number; but
    NVML knows nothing of `CUDA_VISIBLE_DEVICES`: all ranks would share the cores next
    to the node's first GPU.
    https://github.com/areal-project/AReaL/blob/4aef98d/areal/infra/platforms/cuda.py
    """

    @wraps(original)
    def set_numa_affinity(local_rank: int) -> None:
        original(_nvml_index(local_rank))

    return staticmethod(set_numa_affinity)


def _nvml_index(place: int) -> int:
    """NVML's number of a GPU, given its place among those that this process sees.

    `CUDA_VISIBLE_DEVICES` has numbers, or the beginnings of UUIDs of GPUs or of their
    parts (MIG). What it doesn't tell stays as it is.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = visible[place].strip() if place < len(visible) else ""
    if name.isdecimal():
        return int(name)
    try:
        import pynvml
    except ImportError:  # of which the original warns
        return place
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # likewise
        return place
    try:
        for index in range(pynvml.nvmlDeviceGetCount() if name else 0):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            if any(uuid.startswith(name) for uuid in _uuids(pynvml, gpu)):
                return index
        return place
    finally:
        pynvml.nvmlShutdown()


def _uuids(pynvml: ModuleType, gpu: Any) -> list[str]:
    """Of a GPU, and of the parts that it may be divided into."""
    found = [pynvml.nvmlDeviceGetUUID(gpu)]
    try:
        for part in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, part)
            found.append(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError:  # none, or no more
        pass
    return found


def launch_command(command: list[str], launcher: str) -> list[str]:
    """AReaL's command that starts a server, with another launcher in the place of its.

    Raises
    ------
    UserError
        It starts something else than the launcher of the AReaL that is there: the
        server would be an unguarded one.
    """
    known = installed().launcher
    if command[1:3] != ["-m", known]:
        raise ChangedUpstream(
            "areal.api.cli_args:SGLangConfig.build_cmd_from_args",
            f"a command that starts {known}",
            repr(" ".join(command[:3])),
        )
    return [command[0], "-m", launcher, *command[3:]]
