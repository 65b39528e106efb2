"""Step 1: what is there, and whether what the other steps import is."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from typing import Any

import torch

from tests.gpu_check.findings import Findings
from tests.gpu_check.packages import ROOT
from tests.gpu_check.setting import GIB, Setting

NEEDED = (
    "areal_cppo.core",
    "areal_cppo.step.actor",
    "areal_cppo.bench.train_step",
    "tests.step.harness",
    "tests.step.families",
    "tests.step.flash_on_cpu",
)


def run(setting: Setting, findings: Findings) -> None:
    """Versions, the GPU, imports."""
    found = about([])
    findings.figure(
        versions=found["versions"],
        machine=platform.platform(),
        compiler=shutil.which("gcc") or shutil.which("cc"),
        nccl=torch.distributed.is_nccl_available(),
    )
    flash = torch.backends.cuda.is_flash_attention_available()
    findings.figure(flash_attention=flash)
    if setting.cuda:
        gpu = torch.cuda.get_device_properties(setting.device)
        free, total = torch.cuda.mem_get_info(setting.device)
        findings.figure(
            gpu=gpu.name,
            compute_capability=f"{gpu.major}.{gpu.minor}",
            multiprocessors=gpu.multi_processor_count,
            memory_gib={"total": total / GIB, "free": free / GIB},
        )
        findings.true("torch's own flash-attention", flash)
        findings.least("compute capability", gpu.major + gpu.minor / 10, 8.0)
    start, missing = time.perf_counter(), {}
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
    seconds = time.perf_counter() - start
    findings.figure(import_seconds=seconds, missing_modules=missing)
    findings.most("modules that can't be imported", len(missing), 0)
    versions = found["versions"]
    findings.say(
        f"{found['chip']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}"
    )


def about(command: Sequence[str]) -> dict[str, Any]:
    """Where, when, with what and how: `chip`, `driver`, `versions`, `date`, ...

    `command` is what the user typed.
    """
    cuda = torch.cuda.is_available()
    return {
        "chip": torch.cuda.get_device_name() if cuda else "no GPU",
        "driver": _first_line("nvidia-smi", *_QUERY) if cuda else None,
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "CUDA": torch.version.cuda,
            "transformers": _version("transformers"),
            "areal": _version("areal"),
        },
        "commit": _first_line("git", "-C", str(ROOT), *_COMMIT),
        "command": shlex.join(command),
    }


_QUERY = ("--query-gpu=driver_version", "--format=csv,noheader")
_COMMIT = ("describe", "--always", "--dirty", "--exclude=*")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    """Of a program's output; `None`: it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return lines[0].strip() or None if lines else None
