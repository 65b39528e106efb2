"""AReaL's RPC worker as a process of its own, and the sockets of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from areal_cppo.serving.listen import LISTEN_VARIABLE
from areal_cppo.serving.processes import end_process_tree

START_SECONDS = 240


def listening(pid: int) -> dict[int, str]:
    """Address by port of every socket that a process listens on."""
    return {
        connection.laddr.port: connection.laddr.ip
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@contextmanager
def rpc_worker(module: str, folder: Path, choice: str):
    """AReaL's worker as its scheduler starts it; gives the process and the port.

    It finds the modules of this folder; what it prints is in `folder / "worker.log"`.
    """
    arguments = {
        "host": "0.0.0.0",  # as when one worker starts another
        "port": 0,
        "experiment-name": "listen",
        "trial-name": "test",
        "role": "actor",
        "worker-index": 0,
        "name-resolve-type": "nfs",
        "nfs-record-root": folder,
        "fileroot": folder,
    }
    words = [str(word) for k, v in arguments.items() for word in (f"--{k}", v)]
    log = folder / "worker.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env=os.environ | {LISTEN_VARIABLE: choice},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (ports := listening(process.pid)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process, next(iter(ports))
    finally:
        end_process_tree(process.pid)
