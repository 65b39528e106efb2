"""`python -m areal_cppo.serving.launch`: AReaL's launcher of SGLang, guarded.

Takes AReaL's flags, after `--ungated` if whoever asks may have whatever it serves. The
token that requests must carry comes in an environment variable, because command lines
are seen by every user of a machine and SGLang prints its own. An environment is seen by
the same user and root.

AReaL's launcher is used as it is; what it looks up when it runs is replaced
(`areal_cppo.patches`): the function that its scheduler processes run, that which
registers endpoints, and the module that SGLang sends its warm-up with, so that the gate
knows it. What requests have in common is computed once (`sharing.py`).

The server and its scheduler (which imports the main module again) listen only where
the run may, and log nothing private.
"""

import os
import sys
from importlib import import_module

from areal_cppo.patches import areal as patch_areal
from areal_cppo.patches import sglang as patch_sglang
from areal_cppo.patches.contracts import check_upstream
from areal_cppo.patches.version import installed
from areal_cppo.serving.cpu import forget_pinned_memory
from areal_cppo.serving.guard import Gate, Secret, add_endpoints
from areal_cppo.serving.listen import narrow_this_process
from areal_cppo.serving.redaction import redact_logs
from areal_cppo.serving.sharing import ProcessedImages, share_prompts

MODULE = "areal_cppo.serving.launch"
UNGATED = "--ungated"
TOKEN_VARIABLE = "AREAL_CPPO_SERVER_TOKEN"


def guarded(command: list[str]) -> list[str]:
    """AReaL's command that starts a server, with this launcher in the place of its.

    And without leave to run code that comes with a model, which AReaL always gives.
    """
    command = patch_areal.launch_command(command, MODULE)
    return [word for word in command if word != "--trust-remote-code"]


def ungated(command: list[str]) -> list[str]:
    """The same for a server that gives tokens to whoever asks, of whatever weights."""
    command = guarded(command)
    after = command.index(MODULE) + 1
    return [*command[:after], UNGATED, *command[after:]]


def run_scheduler(*args, **kwargs) -> None:
    """AReaL's scheduler process, patched from within."""
    from areal_cppo.serving.held_weights import compare_in_scheduler, recording

    patch_sglang.scheduler_method(compare_in_scheduler)
    patch_sglang.update_weights_from_distributed(recording)
    patch_sglang.flush_cache()
    patch_sglang.get_new_batch_prefill(share_prompts)
    areal = import_module(f"{installed().sglang}.scheduler")
    areal.areal_run_scheduler_process(*args, **kwargs)


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    token = os.environ.pop(TOKEN_VARIABLE, "")  # SGLang's processes inherit the rest

    areal = import_module(installed().launcher)
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree
    from sglang.srt.utils.common import suppress_noisy_warnings

    suppress_noisy_warnings()
    gated = arguments[:1] != [UNGATED]
    server_args = prepare_server_args(arguments if gated else arguments[1:])
    if token:
        server_args.api_key = Secret(token)
    if gated:
        gate = Gate()
        patch_areal.register_awex_endpoints(
            lambda app, rpc_proxy: add_endpoints(app, gate, rpc_proxy)
        )
        patch_sglang.http_server_requests(gate.warm_up_client)
    patch_areal.areal_run_scheduler_process(run_scheduler)
    patch_sglang.get_fastapi_request_path()
    patch_sglang.get_mm_processor(ProcessedImages)
    check_upstream()
    try:
        areal.areal_launch_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ in ("__main__", "__mp_main__"):
    narrow_this_process()
    redact_logs()
    forget_pinned_memory()
if __name__ == "__main__":
    main(sys.argv[1:])
