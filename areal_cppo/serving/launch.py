"""`python -m areal_cppo.serving.launch`: AReaL's launcher of SGLang, guarded.

Takes AReaL's flags. The token that requests must carry comes in an environment
variable, because command lines are seen by every user of a machine and SGLang prints
its own. An environment is seen by the same user and root.

AReaL's launcher is used as it is: two names that it looks up when it runs are replaced,
that of the function its scheduler processes run and that which registers endpoints. The
module `requests` that SGLang sends its warm-up with is wrapped, so that the gate knows
it; were it sent otherwise, the gate would refuse it and the server would not start.

With metrics on, SGLang asks the route of each request for its path. A router that was
included has none in newer versions of FastAPI (0.165): its requests, the heartbeat's
/v1/loads among them, would be answered with 500.

The server and its scheduler (which imports the main module again) listen only where
the run may, and log nothing private.
"""

import os
import sys
from collections.abc import Callable
from functools import wraps

from areal_cppo.serving.cpu import forget_pinned_memory
from areal_cppo.serving.guard import Gate, Secret, add_endpoints
from areal_cppo.serving.listen import narrow_this_process
from areal_cppo.serving.redaction import redact_logs

MODULE = "areal_cppo.serving.launch"
_AREAL_MODULE = "areal.experimental.inference_service.sglang.launch_server"
TOKEN_VARIABLE = "AREAL_CPPO_SERVER_TOKEN"


def guarded(command: list[str]) -> list[str]:
    """AReaL's command that starts a server, with this launcher in the place of its."""
    return [MODULE if word == _AREAL_MODULE else word for word in command]


def _with_included_routers(path_of: Callable) -> Callable:
    """SGLang's `_get_fastapi_request_path`, of requests to included routers as well."""

    @wraps(path_of)
    def path_of_any(request) -> tuple[str, bool]:
        try:
            return path_of(request)
        except AttributeError:
            return request.url.path, True

    return path_of_any


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    token = os.environ.pop(TOKEN_VARIABLE, "")  # SGLang's processes inherit the rest

    from areal.experimental.inference_service.sglang import awex, scheduler
    from areal.experimental.inference_service.sglang.launch_server import (
        areal_launch_server,
    )
    from sglang.srt.entrypoints import http_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import common, kill_process_tree
    from sglang.srt.utils.common import suppress_noisy_warnings

    from areal_cppo.serving.held_weights import run_scheduler

    suppress_noisy_warnings()
    server_args = prepare_server_args(arguments)
    if token:
        server_args.api_key = Secret(token)
    gate = Gate()
    register = awex.register_awex_endpoints

    def register_all(app, rpc) -> None:
        register(app, rpc)
        add_endpoints(app, gate, rpc)

    awex.register_awex_endpoints = register_all
    common._get_fastapi_request_path = _with_included_routers(
        common._get_fastapi_request_path
    )
    http_server.requests = gate.warm_up_client(http_server.requests)
    scheduler.areal_run_scheduler_process = run_scheduler
    try:
        areal_launch_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ in ("__main__", "__mp_main__"):
    narrow_this_process()
    redact_logs()
    forget_pinned_memory()
if __name__ == "__main__":
    main(sys.argv[1:])
