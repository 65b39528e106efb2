"""Which GPUs the workers of one machine see, whatever CUDA_VISIBLE_DEVICES calls them.

The platform is AReaL's for CUDA, the GPUs are names only. In one test a worker is a
shell, in the others nothing at all.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from areal.api import Job
from areal.api.cli_args import SchedulingSpec, SchedulingStrategy
from areal.infra.platforms.cpu import CpuPlatform
from areal.infra.platforms.cuda import CudaPlatform
from areal.infra.scheduler import local as areal_local
from areal.infra.scheduler.exceptions import WorkerCreationError

from areal_cppo.cluster import local, make_scheduler
from areal_cppo.cluster.worker import WORKER
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError

CONFIG = Path(__file__).parents[2] / "areal_cppo" / "configs" / "triangles.yaml"
VISIBLE = "CUDA_VISIBLE_DEVICES"
SHELL = """sh -c 'echo "sees $CUDA_VISIBLE_DEVICES"; exec sleep 600'"""
NAMES = {
    "uuids": "GPU-5e1f4c0a-1,GPU-5e1f4c0a-2,GPU-77,GPU-b",
    "mig": "MIG-1/7/0,MIG-1/8/0,MIG-GPU-2/1/0,MIG-3",
    "indices": "4,0,11,7",
}


START = areal_local.run_with_streaming_logs
NO_PROCESS = SimpleNamespace(pid=2**22 + 1, poll=lambda: None)  # beyond Linux's last


@pytest.fixture
def scheduler_for(monkeypatch, tmp_path):
    """Makes the local scheduler for a CUDA_VISIBLE_DEVICES; ends its workers."""
    config = load_config(CONFIG, ["scheduler.type=local", f"run_dir={tmp_path}"])
    Path(config.cluster.name_resolve.nfs_record_root).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(areal_local, "_get_device_count_safely", lambda: 3)
    monkeypatch.setattr(
        areal_local, "run_with_streaming_logs", lambda *_, **__: NO_PROCESS
    )
    # It would wait for an answer.
    scheduler = areal_local.LocalScheduler
    monkeypatch.setattr(scheduler, "_configure_worker", lambda *_: None)
    made = []

    def make(visible: str | None, platform=CudaPlatform):
        for module in (areal_local, local):
            monkeypatch.setattr(module, "current_platform", platform())
        if visible is None:
            monkeypatch.delenv(VISIBLE, raising=False)
        else:
            monkeypatch.setenv(VISIBLE, visible)
        made.append(make_scheduler(config))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.delete_workers()


def job(role: str, replicas: int, gpus: int, **strategy) -> Job:
    spec = SchedulingSpec(cpu=1, gpu=gpus, port_count=1, cmd=SHELL)
    return Job(role, replicas, [spec], SchedulingStrategy(**strategy))


def seen(scheduler, role: str) -> list[str]:
    """What the workers of a role are told to see."""
    return [info.env_vars[VISIBLE] for info in scheduler._workers[role]]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_each_worker_has_its_own(names, scheduler_for):
    scheduler = scheduler_for(names)
    a, b, c, d = names.split(",")
    assert scheduler.n_gpus_per_node == 4
    scheduler.create_workers(job("actor", 2, gpus=1))
    scheduler.create_workers(job("rollout", 1, gpus=2))
    scheduler.create_workers(job("more", 1, gpus=1))  # AReaL begins anew
    scheduler.create_workers(job("none", 1, gpus=0))
    assert seen(scheduler, "actor") == [a, b]
    assert seen(scheduler, "rollout") == [f"{c},{d}"]
    assert seen(scheduler, "more") == [a]
    assert seen(scheduler, "none") == [""]
    with pytest.raises(WorkerCreationError, match="Requested 5 GPUs but only 4"):
        scheduler.create_workers(job("big", 1, gpus=5))


def test_the_process_sees_them(scheduler_for, monkeypatch):
    monkeypatch.setattr(areal_local, "run_with_streaming_logs", START)
    scheduler = scheduler_for(NAMES["mig"])
    scheduler.create_workers(job("actor", 2, gpus=2))
    log = Path(scheduler._workers["actor"][0].log_file)
    deadline = time.monotonic() + 30
    while log.read_text().count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(log.read_text().splitlines()) == [
        "sees MIG-1/7/0,MIG-1/8/0",
        "sees MIG-GPU-2/1/0,MIG-3",
    ]


class _Guard(BaseHTTPRequestHandler):
    """Answers as the worker that is asked to start another one; keeps the module."""

    started: list[str] = []

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.started += asked.get("raw_cmd", [])[2:3]
        port = self.server.server_port
        answer = {"status": "success", "host": "127.0.0.1", "ports": [port], "pid": 1}
        self._answer(answer)

    def do_GET(self):
        self._answer({})

    def _answer(self, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def guard_port():
    server = HTTPServer(("127.0.0.1", 0), _Guard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_colocated_and_forked_workers_have_their_targets(scheduler_for, guard_port):
    scheduler = scheduler_for(NAMES["uuids"])
    a, b, *_ = NAMES["uuids"].split(",")
    ids = scheduler.create_workers(job("actor", 2, gpus=1))
    with_actor = {"type": "colocation", "target": "actor"}
    together = job("ref", 2, gpus=1, fork=False, **with_actor)
    assert scheduler.create_workers(together) == ids
    assert scheduler._get_colocated_gpus("actor", 1) == [b]
    for info in scheduler._workers["actor"]:
        info.worker.ip, info.worker.worker_ports = "127.0.0.1", [str(guard_port)]
    scheduler.create_workers(job("proxy", 2, gpus=1, fork=True, **with_actor))
    assert [info.gpu_devices for info in scheduler._workers["proxy"]] == [[a], [b]]
    assert seen(scheduler, "proxy") == [a, b]
    assert _Guard.started == [WORKER] * 2  # not AReaL's, which listens everywhere


@pytest.mark.parametrize("visible", (None, ""))
def test_without_the_variable_areal_counts(visible, scheduler_for):
    assert scheduler_for(visible).gpu_devices == [0, 1, 2]


def test_without_cuda_it_is_not_read(scheduler_for):
    assert scheduler_for("GPU-a,1", CpuPlatform).gpu_devices == [0, 1, 2]


@pytest.mark.parametrize(
    "visible, names",
    (
        ("0", ["0"]),
        (" 2, 1 ", ["2", "1"]),
        ("0,1,-1,2", ["0", "1"]),
        ("GPU-a,GPU-b,", ["GPU-a", "GPU-b"]),
    ),
)
def test_the_list_is_read_as_torch_reads_it(visible, names, scheduler_for):
    assert scheduler_for(visible).gpu_devices == names
    assert list(map(str, torch.cuda._parse_visible_devices())) == names


@pytest.mark.parametrize(
    "visible", ("0,0", "GPU-a,GPU-b,GPU-a", "0,GPU-a", "GPU-a,1", "GPU-a,MIG-b", "0,x")
)
def test_where_cuda_sees_fewer_it_is_refused(visible, scheduler_for):
    with pytest.raises(UserError) as mistake:
        scheduler_for(visible)
    said = str(mistake.value)
    assert said.startswith("CUDA_VISIBLE_DEVICES: expected indices, or names")
    assert f"found {visible!r}; name all devices" in said
    assert "\n" not in said
    assert len(torch.cuda._parse_visible_devices()) < len(visible.split(","))
