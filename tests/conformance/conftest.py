"""The server that the conformance tests speak to.

    export AREAL_CPPO_SERVER=http://host:port AREAL_CPPO_SERVER_MODEL=DIR
    pytest tests/conformance

aims them at a running server of that model folder. It must run on this machine or share
its disks (new weights are handed over in a folder), and must have been started with
SGLANG_VLM_CACHE_SIZE_MB=0, as `areal-cppo serve` and training do.

Without the variables they start `areal-cppo serve` on the tiny model, once, and expect
it to end without a trace.
"""

import os
import signal
import socket
import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from areal_cppo.serving.processes import end_run, processes_of_run, run_environment
from areal_cppo.tasks.triangles import checkpoint_dir
from tests.conformance.protocol import Server

ADDRESS, MODEL = "AREAL_CPPO_SERVER", "AREAL_CPPO_SERVER_MODEL"


@pytest.fixture(scope="session")
def server():
    """The `Server` of the variables, or a fresh one on this machine."""
    address, model = os.environ.get(ADDRESS), os.environ.get(MODEL)
    if bool(address) != bool(model):
        pytest.fail(f"expected both {ADDRESS} and {MODEL}, found one; set both or none")
    if address:
        yield Server(address, Path(model))
        return
    if find_spec("sglang") is None:
        pytest.skip("needs SGLang: make setup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_id = f"test-{uuid.uuid4()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "areal_cppo", "serve", "--port", str(port)]
        + ["--model", str(checkpoint_dir())],
        env={**os.environ, **run_environment(run_id)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "starting SGLang" in process.stdout.readline()
        assert f"ready at http://127.0.0.1:{port} " in process.stdout.readline()
        names = {" ".join(p.cmdline()) for p in processes_of_run(run_id)}
        assert any("sglang::scheduler" in name for name in names), names
        yield Server(f"http://127.0.0.1:{port}", checkpoint_dir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert processes_of_run(run_id) == []
        assert not psutil.pid_exists(process.pid)
    finally:
        end_run(run_id, grace_seconds=0)


@pytest.fixture(autouse=True)
def healthy_afterwards(server):
    """Whatever a test sends, the server must be there for the next one."""
    yield
    assert server.healthy()
