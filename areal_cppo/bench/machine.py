"""Where, when, with what and how something was measured."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime
from importlib import metadata
from typing import Any

import torch

from areal_cppo import __version__
from areal_cppo.config import SDPA, TORCH_FLASH


def attention() -> str:
    """torch's flash-attention on a GPU, else sdpa; for all arms."""
    return TORCH_FLASH if torch.cuda.is_available() else SDPA


def command() -> str:
    """As it was typed."""
    return shlex.join(["areal-cppo", *sys.argv[1:]])


def describe_run() -> dict[str, Any]:
    """For JSON: `machine`, `versions`, `date`, `command`."""
    cuda = torch.cuda.is_available()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "memory_gib": round(pages / 2**30, 1),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "attention": attention(),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "areal-cppo": __version__,
            "areal": metadata.version("areal"),
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
        },
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        names = (line.partition(":")[2] for line in lines if "model name" in line)
        return next(names, platform.machine()).strip()
