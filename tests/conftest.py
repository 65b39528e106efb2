"""What every test needs: a CPU-only torchvision that imports, one thread, no hub; and
an SGLang server that tests share.

Processes that tests start find `tests` on their path.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import pytest
from hypothesis import settings

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [ROOT, os.environ.get("PYTHONPATH")])
)

# A shell that starts tests in the background has them, and what they start, ignore
# Ctrl-C; some tests are about what Ctrl-C does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines stall: how long an example took says nothing about the code.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


def pytest_collection_modifyitems(items):
    """Files with what takes long come first, whole runs before all: workers that take
    a file each then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parts[-2] != "tests"))


@pytest.fixture
def gone():
    """Whether a process has ended; a zombie that nobody reaps has."""

    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return is_gone


@pytest.fixture(scope="session")
def sglang_server():
    """A `Server` that `areal-cppo serve` has started on the tiny model, for tests that
    leave it as it was; at the end it must end without a trace.

    Or that of AREAL_CPPO_SERVER and AREAL_CPPO_SERVER_MODEL (tests/conformance).
    """
    from areal_cppo.serving.processes import end_run, processes_of_run, run_environment
    from areal_cppo.tasks.problems import TRIANGLES
    from tests.conformance.protocol import Server

    names = ("AREAL_CPPO_SERVER", "AREAL_CPPO_SERVER_MODEL")
    address, model = map(os.environ.get, names)
    if bool(address) != bool(model):
        pytest.fail(f"expected both of {names}, found one; set both or none")
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
        + ["--model", str(TRIANGLES.checkpoint)],
        env={**os.environ, **run_environment(run_id)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "starting SGLang" in process.stdout.readline()
        assert f"ready at http://127.0.0.1:{port} " in process.stdout.readline()
        titles = {" ".join(p.cmdline()) for p in processes_of_run(run_id)}
        assert any("sglang::scheduler" in title for title in titles), titles
        yield Server(f"http://127.0.0.1:{port}", TRIANGLES.checkpoint)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert processes_of_run(run_id) == []
        assert not psutil.pid_exists(process.pid)
    finally:
        end_run(run_id, grace_seconds=0)
