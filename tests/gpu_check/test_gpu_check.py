"""The check's own machinery: what it refuses, what it keeps, how it ends.

Covers arguments, wheels, a worker that dies, hangs or runs out of time, the files and
the table. The steps are in test_gpu_check_steps.py. Not covered: a GPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

import pytest
import torch

from areal_cppo.errors import UserError
from tests.gpu_check import folder, packages, run
from tests.gpu_check.__main__ import main
from tests.gpu_check.findings import Findings
from tests.gpu_check.run import Plan
from tests.gpu_check.steps import STEPS, choose
from tests.gpu_check.trace import KERNELS, Event, kind_of, summarize, union


def numbers(steps) -> list[int]:
    return [step.number for step in steps]


def test_which_steps():
    assert numbers(choose(None)) == list(range(1, 10))
    assert numbers(choose("4-6, 2")) == [2, 4, 5, 6]
    assert numbers(choose(None, 8)) == [8, 9]
    assert numbers(choose("1,7,9", 2)) == [7, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: expected numbers from 1 to 10"),
        (["--steps", "3-12"], "--steps: expected numbers from 1 to 10"),
        (["--steps", "6-4"], "--steps: expected numbers from 1 to 10"),
        (["--steps", "two"], "found 'two'"),
        (["--steps", "2,3", "--from", "5"], "--from: expected a step of those to run"),
        (["--minutes", "0"], "--minutes: expected a number > 0"),
        (["--show", "nowhere"], "--show: expected a folder with summary.json"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "expected a CUDA device, found none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_wheels(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "need_wheels", lambda: True)
    empty = tmp_path / "empty"
    for found in ("no such folder", "none"):
        assert main(["--rehearse", "--wheels", str(empty)]) == 2
        error = capsys.readouterr().err
        assert f"expected wheels in {empty}, found {found}; make them" in error
        empty.mkdir(exist_ok=True)


def test_wheels_that_pip_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "need_wheels", lambda: True)
    (tmp_path / "areal-0.0.1-py3-none-any.whl").touch()
    out = tmp_path / "out"
    arguments = ["--rehearse", "--wheels", str(tmp_path), "--out", str(out)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "expected pip to install gpu-check.txt" in error
    assert list(out.iterdir()) == []


def test_the_workers_environment(tmp_path):
    base = {"PYTHONPATH": "/mine", "OMP_NUM_THREADS": "1", "NCCL_SOCKET_IFNAME": "eth0"}
    found = packages.environment(base, tmp_path, 16)
    path = [str(tmp_path), str(packages.ROOT), "/mine"]
    assert found["PYTHONPATH"].split(os.pathsep) == path
    assert found["OMP_NUM_THREADS"] == "16"
    assert found["NCCL_SOCKET_IFNAME"] == "eth0"
    assert found["GLOO_SOCKET_IFNAME"] == "lo"
    bare = packages.environment({}, None, 1)
    assert bare["PYTHONPATH"] == str(packages.ROOT)


def test_stand_ins_come_last(monkeypatch):
    monkeypatch.setattr(sys, "path", ["here", "there"])
    packages.find_stand_ins()
    packages.find_stand_ins()
    assert [entry.rpartition("/")[2] for entry in sys.path] == [
        *("here", "there", "stand_ins")
    ]


def test_bounds():
    saved = []
    findings = Findings(lambda found: saved.append(len(found.bounds)))
    findings.most("low", 1.0, 1.0)
    findings.least("high", 2.0, 1.5)
    findings.true("so", True)
    assert findings.held and saved == [1, 2, 3]
    findings.most("not a number", float("nan"), 1.0)
    assert not findings.held
    assert json.loads(json.dumps(findings.bounds, allow_nan=False))[-1] == {
        "name": "not a number",
        "found": "nan",
        "limit": "<= 1",
        "held": False,
    }


def finished(step, **more):
    document = folder.begin(step, 0.0)
    return document | {"status": folder.PASSED, "seconds": 1.5} | more


def test_files_and_table(tmp_path):
    about = {
        "chip": "GPU X",
        "driver": "1.2",
        "cores": 16,
        "date": "2026-01-01",
        "versions": {"torch": "9", "areal": None},
        "commit": "abc",
        "command": "python -m tests.gpu_check",
    }
    (tmp_path / "log").touch()
    for step in STEPS:
        folder.make_room(tmp_path)
        folder.write(tmp_path, finished(step, about=about))
        assert len(list(tmp_path.iterdir())) < 8
        assert (tmp_path / f"{step.number:02}-{step.name}.json").exists()
    bound = {"name": "error of dk", "found": 2.34567, "limit": "<= 1.5", "held": False}
    broken = {"status": folder.FAILED, "bounds": [bound], "error": "ValueError: no"}
    folder.write(tmp_path, finished(STEPS[1], about=about, **broken))
    documents = folder.fold(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"log", folder.SUMMARY}
    summary = json.loads((tmp_path / folder.SUMMARY).read_text())
    assert summary["complete"] and not summary["passed"]
    lines = folder.table(documents).splitlines()
    assert len(lines) == 1 + len(STEPS) + 2
    assert "2 attention: error of dk: found 2.346, expected <= 1.5" in lines[-1]
    shown = folder.markdown(documents)
    assert shown.startswith("GPU X, driver 1.2, 16 cores; torch 9; 2026-01-01, ")
    assert "| 2 attention | 1.5 | failed, 0 of 1 bounds |  |" in shown
    folder.forget(tmp_path, STEPS[1])
    assert (
        2 not in folder.read(tmp_path) and len(folder.read(tmp_path)) == len(STEPS) - 1
    )


def plan(tmp_path, steps="2,9", minutes=1.0) -> Plan:
    return Plan(choose(steps), tmp_path, tmp_path, minutes, True, ["check"])


def worker(monkeypatch, program: str) -> None:
    """A program in the worker's place; it knows `steps`, `begin` and `write`."""
    start = "import os, sys, time\nfrom pathlib import Path\n"
    start += "from tests.gpu_check.folder import begin, write\n"
    start += "from tests.gpu_check.steps import choose\n"
    start += "steps, out = choose(sys.argv[1]), Path(sys.argv[2])\n"

    def command(plan, steps, scratch, until):
        listed = ",".join(str(step.number) for step in steps)
        return [sys.executable, "-c", start + program, listed, str(plan.out)]

    monkeypatch.setattr(run, "need_wheels", lambda: False)
    monkeypatch.setattr(run, "worker_command", command)


BEGIN = "write(out, begin(steps[0], time.time()) | {'figures': {'kept': 1}})\n"
PASS = "write(out, begin(steps[0], 0) | {'status': 'passed', 'seconds': 1})\n"


def test_steps_that_pass(tmp_path, monkeypatch, capsys):
    worker(monkeypatch, PASS)  # one step a worker, as after a CUDA error
    assert run.check(plan(tmp_path)) == 0
    assert "9 hand-over" in capsys.readouterr().out
    # Another call for other steps leaves these; the same ones are run anew.
    assert run.check(plan(tmp_path, "3")) == 0
    assert list(folder.read(tmp_path)) == [2, 3, 9]
    worker(monkeypatch, "sys.exit(7)")
    assert run.check(plan(tmp_path, "3")) == 1
    states = {n: d["status"] for n, d in folder.read(tmp_path).items()}
    assert states == {2: "passed", 3: "failed", 9: "passed"}
    assert "status 7" in folder.read(tmp_path)[3]["error"]


def test_a_worker_that_dies_takes_one_step_with_it(tmp_path, monkeypatch):
    worker(monkeypatch, BEGIN + "os.kill(os.getpid(), 9)")
    assert run.check(plan(tmp_path)) == 1
    documents = folder.read(tmp_path)
    assert list(documents) == [2, 9]
    for document in documents.values():
        assert document["error"] == "the worker ended with status -9"
        assert document["figures"] == {"kept": 1}


def test_a_step_that_hangs(tmp_path, monkeypatch):
    hasty = tuple(replace(step, most=1) for step in STEPS)
    monkeypatch.setattr(run, "STEPS", hasty)
    worker(monkeypatch, BEGIN + "time.sleep(100)")
    start = time.time()
    assert run.check(plan(tmp_path, "2")) == 1
    assert time.time() - start < 30
    assert "ended after 1 seconds: it hung" in folder.read(tmp_path)[2]["error"]


def test_out_of_time(tmp_path, monkeypatch):
    worker(monkeypatch, BEGIN + "time.sleep(100)")
    assert run.check(plan(tmp_path, minutes=0.05)) == 1
    running, waiting = folder.read(tmp_path).values()
    assert running["error"] == "out of time" and running["figures"] == {"kept": 1}
    assert waiting["status"] == folder.NOT_RUN and waiting["error"] is None


def test_a_wheel_folder_is_needed_only_without_areal():
    assert not packages.need_wheels()
    with pytest.raises(UserError, match="found no such folder"):
        packages.check_wheels(packages.ROOT / "nowhere")


class TestTrace:
    def test_union(self):
        spans = [(0, 4), (2, 3), (3, 6), (8, 9)]
        assert union([Event("k", *span, True) for span in spans]) == 7

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("void pytorch_flash::flash_bwd_dq_dk_dv_loop<...>", "attention"),
            ("void at::native::indexFuncLargeIndex<c10::BFloat16, long>", "index_add"),
            ("void at::native::vectorized_gather_kernel<16, long>", "index_select"),
            ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNN", "matrix products"),
            ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
            ("void at::native::multi_tensor_apply_kernel<FusedAdam>", "optimizer"),
            ("Memcpy DtoH (Device -> Pinned)", "copies"),
            ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
            ("something new", "other"),
        ],
    )
    def test_kinds(self, name, kind):
        assert kind_of(name) == kind

    def test_summary(self):
        events = [
            *(Event(f"gemm {i}", i * 1000, i * 1000 + 500, True) for i in range(40)),
            Event("cudaStreamSynchronize", 0, 250, False),
            Event("cudaStreamSynchronize", 300, 550, False),
            Event("cudaLaunchKernel", 300, 550, False),
        ]
        found = summarize(events, 0.04)
        assert found["idle_share"] == pytest.approx(0.5)
        assert found["launches"] == 40 and len(found["longest_kernels"]) == KERNELS
        assert found["share_by_kind"] == {"matrix products": pytest.approx(1)}
        waits = {"cudaStreamSynchronize": {"calls": 2, "milliseconds": 0.5}}
        assert found["waits"] == waits
        assert summarize([], 1.0)["idle_share"] is None
