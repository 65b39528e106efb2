"""`areal-cppo demo`: asynchronous CPPO end to end on this machine's CPUs."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from areal_cppo.cli.common import at_least, check_unused, config_file, quoted
from areal_cppo.cli.train import run_with_display
from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.errors import UserError

_NEEDED_BYTES = 300 * 2**20  # checkpoints, traces and logs of a run take about 60 MiB
_EVALUATIONS = 3  # after training began: two on the way and one at the end
# Positive views that the tiny model can read. Of the published ones, the defaults, it
# misreads 39 % (docs/evidence.md), and the run would warn of that.
_POSITIVE_VIEWS = (
    "[{name: rotation, degrees: 5.0}, {name: gaussian_blur, sigma: 1.0},"
    " {name: noise, strength: 0.05}, {name: color_jitter, brightness: [0.8, 1.2],"
    " contrast: [0.8, 1.2], saturation: [0.8, 1.2]}]"
)


def add_demo(commands: Any) -> None:
    """Add `demo` to the parser's commands."""
    command = commands.add_parser(
        "demo", help="train a tiny model end to end on this machine's CPUs"
    )
    command.add_argument("--steps", type=int, default=None, help="train steps")
    command.add_argument("--out", help="folder of the run (default: runs/demo-...)")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--objective", choices=tuple(OBJECTIVES), default="cppo")
    command.add_overrides()
    command.set_defaults(call=demo)


def demo(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    config, steps, objective = config_file("triangles.yaml"), args.steps, args.objective
    if steps is None:
        steps = yaml.safe_load(config.read_text())["total_train_steps"]
    at_least("--steps", steps, 1)
    folder = _folder(args.out, objective, args.seed)
    from areal_cppo.tasks.problems import TRIANGLES

    settings = {
        "run_dir": folder,
        "actor.path": TRIANGLES.checkpoint,
        "trial_name": objective,
        "total_train_steps": steps,
        "seed": args.seed,
        "actor.objective": objective,
        "heldout.every": -(-steps // _EVALUATIONS),
    }
    if OBJECTIVES[objective].settings == "cpl":
        settings["actor.cpl.views.positive"] = _POSITIVE_VIEWS
    own = [f"{key}={quoted(value)}" for key, value in settings.items()]
    print(
        f"Asynchronous {objective.upper()} on CPU, {steps} steps; run folder: {folder}"
    )
    # Where a GPU is, trainer and server would each find it and go their own way.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return run_with_display(config, own + args.overrides, f"demo {objective}", steps)


def _folder(out: str | None, objective: str, seed: int) -> Path:
    """The run's folder: new or empty, on a disk with room."""
    if out is None:
        out = f"runs/demo-{objective}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(out).absolute()
    check_unused(Path(out))
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
