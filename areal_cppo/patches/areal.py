"""Patches of AReaL: where it listens, what it logs, how its servers are started.

Links show a commit whose files are those of the published 1.0.4.
"""

from __future__ import annotations

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
