"""The process that runs steps; `run.py` starts it, and another where one dies.

    python -m tests.gpu_check.worker --steps 2,3 --out DIR --scratch DIR ...

A step's file is written when it begins, whenever it has found something, and when it
ends. An error ends the step and not the process, unless it is one after which CUDA
answers nothing more.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.gpu_check import folder
from tests.gpu_check.findings import Findings
from tests.gpu_check.packages import find_stand_ins
from tests.gpu_check.setting import Setting
from tests.gpu_check.steps import Step, choose


def main() -> None:
    """Run the steps in order, as long as there is time and CUDA works."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check.worker")
    parser.add_argument("--steps", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="since 1970")
    parser.add_argument("--command", required=True, help="what the user typed, JSON")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    find_stand_ins()
    if args.rehearse:
        from areal_cppo.serving.cpu import enable_in_this_process

        enable_in_this_process()
    import torch

    from tests.gpu_check.environment import about

    device = torch.device("cpu" if args.rehearse else "cuda:0")
    setting = Setting(device, args.rehearse, args.scratch)
    where = about(json.loads(args.command))
    with _kernels(args.rehearse):
        for step in choose(args.steps):
            if time.time() > args.until:
                return
            if not run_step(step, setting, args.out, where):
                return  # run.py starts another worker for the rest


def _end_with(parent: int) -> None:
    """End this process and what it has started, once its parent is gone: nobody else
    would take it off the GPU."""
    while os.getppid() == parent:
        time.sleep(1)
    if os.getpgid(0) == os.getpid():  # the group is this process's own
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def run_step(step: Step, setting: Setting, out: Path, where: dict[str, Any]) -> bool:
    """Run one step and write its file; whether this process can go on."""
    folder.make_room(out)
    document = folder.begin(step, time.time()) | {"about": where}
    folder.write(out, document)
    print(f"step {step.number} {step.name}", file=sys.stderr, flush=True)

    def save(findings: Findings) -> None:
        kept = {
            key: getattr(findings, key) for key in ("figures", "bounds", "headline")
        }
        folder.write(out, document | kept)

    findings = Findings(save)
    start, usable = time.perf_counter(), True
    try:
        with _quiet(step):
            module = importlib.import_module(f"tests.gpu_check.{step.module}")
            module.run(setting, findings)
    except Exception as error:
        traceback.print_exc()
        usable = not spoilt(error)
        document["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        document["traceback"] = traceback.format_exc()
    passed = document["error"] is None and findings.held
    document["status"] = folder.PASSED if passed else folder.FAILED
    document["seconds"] = time.perf_counter() - start
    save(findings)
    gc.collect()
    if usable and setting.cuda:
        import torch

        torch.cuda.empty_cache()
    return usable


def spoilt(error: BaseException) -> bool:
    """Whether CUDA answers nothing more in this process."""
    text = str(error)
    return "CUDA error" in text or "NCCL error" in text or "CUBLAS_STATUS" in text


@contextmanager
def _quiet(step: Step) -> Iterator[None]:
    """Without what AReaL says at every step; the first one imports it all."""
    if step.number == 1:
        yield
        return
    from areal_cppo.bench.quiet import quiet

    with quiet():
        yield


@contextmanager
def _kernels(rehearse: bool) -> Iterator[None]:
    """Without a GPU torch's flash-attention is stood in for."""
    if not rehearse:
        yield
        return
    from tests.step.flash_on_cpu import flash_on_cpu

    with flash_on_cpu():
        yield


if __name__ == "__main__":
    main()
