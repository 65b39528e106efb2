"""How a worker starts its server: AReaL's command, with our launcher in it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

from areal.api.cli_args import SGLangConfig
from areal.infra.utils.launcher import TRITON_CACHE_PATH

from areal_cppo.rollout.servers.weights import Weights
from areal_cppo.serving.launch import TOKEN_VARIABLE, guarded
from areal_cppo.serving.server import SERVER_VARIABLES


def launcher(args: dict[str, Any], token: str) -> Callable[[], subprocess.Popen]:
    """What starts a server's process: AReaL's command, with our launcher in it.

    The output goes where the worker's does. The server keeps no memory of images, which
    would outlive their weights.
    """
    command = guarded(SGLangConfig.build_cmd_from_args(args))

    def launch() -> subprocess.Popen:
        environment = SERVER_VARIABLES | dict(os.environ)
        environment.pop(TOKEN_VARIABLE, None)
        if token:
            environment[TOKEN_VARIABLE] = token
        # Servers that compile kernels at once must not share a folder.
        cache = environment.get("TRITON_CACHE_PATH", TRITON_CACHE_PATH)
        environment["TRITON_CACHE_PATH"] = os.path.join(cache, str(uuid.uuid4()))
        return subprocess.Popen(
            command, env=environment, stdout=sys.stdout, stderr=sys.stdout
        )

    return launch


def first_weights(args: dict[str, Any]) -> Weights:
    """Those that a server is started with, of its arguments."""
    for entry in args.get("lora_paths") or []:
        adapter, _, path = str(entry).partition("=")
        return Weights(0, path, adapter)
    return Weights(0, str(args["model_path"]))
