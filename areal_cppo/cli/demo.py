"""`areal-cppo demo`: asynchronous CPPO end to end on this machine's CPUs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import yaml

from areal_cppo.cli.train import run_with_display
from areal_cppo.errors import UserError

_NEEDED_BYTES = 300 * 2**20  # checkpoints, traces and logs of a run take about 60 MiB
_EVALUATIONS = 3  # after training began: two on the way and one at the end


def demo(
    steps: int | None,
    out: str | None,
    seed: int,
    objective: str,
    overrides: list[str],
) -> int:
    """Run the demo; returns the exit status."""
    config = config_file("triangles.yaml")
    if steps is None:
        steps = yaml.safe_load(config.read_text())["total_train_steps"]
    if steps < 1:
        raise UserError(f"--steps: expected a number >= 1, found {steps}")
    folder = _folder(out, objective, seed)
    from areal_cppo.tasks.triangles import checkpoint_dir

    settings = {
        "run_dir": folder,
        "actor.path": checkpoint_dir(),
        "trial_name": objective,
        "total_train_steps": steps,
        "seed": seed,
        "actor.objective": objective,
        "heldout.every": -(-steps // _EVALUATIONS),
    }
    own = [f"{key}={quoted(value)}" for key, value in settings.items()]
    print(
        f"Asynchronous {objective.upper()} on CPU, {steps} steps; run folder: {folder}"
    )
    # Where a GPU is, trainer and server would each find it and go their own way.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return run_with_display(config, own + overrides, f"demo {objective}", steps)


def config_file(name: str) -> Path:
    """A configuration that comes with the package."""
    return Path(__file__).resolve().parents[1] / "configs" / name


def quoted(value: object) -> str:
    """A value of a `key=value` override, whatever characters a path has."""
    text = str(value)
    if not isinstance(value, Path):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _folder(out: str | None, objective: str, seed: int) -> Path:
    """The run's folder: new or empty, on a disk with room."""
    if out is None:
        out = f"runs/demo-{objective}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--out: expected a new or empty folder, found {out} in use; choose "
            "another, so that nothing is lost"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: expected a folder that can be made, found {out}: "
            f"{error.strerror}; choose another"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise UserError(
            f"--out: expected {_NEEDED_BYTES // 2**20} MiB of free disk, found "
            f"{free // 2**20} MiB at {out}; free some or choose another folder"
        )
    return folder
