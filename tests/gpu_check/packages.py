"""What the check imports where areal is not installed: from wheels, for this run only.

The wheels go into a folder that comes first on the worker's PYTHONPATH, and what they
would ask for and nobody uses is stood in for by `stand_ins`, last on its `sys.path`.
Nothing of the machine is changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from areal_cppo.errors import UserError

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "gpu-check.txt"
LOG = 2  # standard error: what steps print is no result


def need_wheels() -> bool:
    """Whether this interpreter lacks areal."""
    return find_spec("areal") is None


def check_wheels(wheels: Path) -> None:
    """Refuse a folder without wheels."""
    if not any(wheels.glob("*.whl")):
        found = "none" if wheels.is_dir() else "no such folder"
        raise UserError(
            f"--wheels: expected wheels in {wheels}, found {found}; make them with "
            "`make gpu-wheels` where there is a network, or install areal"
        )


def install(wheels: Path, target: Path) -> None:
    """Install what the lock names into a folder.

    Raises
    ------
    UserError
        pip refused, such as on another Python than the wheels are for.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--no-index"]
    command += ["--find-links", str(wheels), "--no-deps", "--no-compile"]
    command += ["--target", str(target), "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        raise UserError(
            f"--wheels: expected pip to install {LOCK.name} from {wheels}, found: "
            f"{reason}; make them anew with `make gpu-wheels`, for Python 3.12"
        )


def environment(
    base: Mapping[str, str], site: Path | None, cores: int
) -> dict[str, str]:
    """The worker's environment.

    Parameters
    ----------
    base
        That of this process.
    site
        Where packages were installed; `None`: nowhere.
    cores
        For torch's work on the CPU; the Makefile exports one, for tests.
    """
    path = [str(site)] * (site is not None) + [str(ROOT)]
    path += [entry for entry in base.get("PYTHONPATH", "").split(os.pathsep) if entry]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # One rank on one machine: neither NCCL nor gloo need look for a network.
    loopback = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    return (
        loopback
        | dict(base)
        | offline
        | {
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(cores),
        }
    )


def find_stand_ins() -> None:
    """Let this process import the stand-ins, last of all."""
    stand_ins = str(Path(__file__).parent / "stand_ins")
    if stand_ins not in sys.path:
        sys.path.append(stand_ins)
