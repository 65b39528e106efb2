"""`areal-cppo train`: a supervised run with a live display."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import note
from areal_cppo.config.keys import check_early, run_folder
from areal_cppo.doctor.packages import check_versions
from areal_cppo.folder import FAILED, RunFolder
from areal_cppo.report.live import live_display
from areal_cppo.run.claim import claimed
from areal_cppo.run.stop import STOPPED
from areal_cppo.run.supervisor import (
    INTERRUPTED,
    TERMINATED,
    RunEnd,
    supervise,
)


def add_train(commands: Any) -> None:
    """Add `train` to the parser's commands."""
    command = commands.add_parser(
        "train", help="train with the configuration of a file"
    )
    command.add_argument("--config", required=True, metavar="FILE")
    command.add_argument(
        "--dry-run", action="store_true", help="check everything, start nothing"
    )
    command.add_overrides()
    command.set_defaults(call=train)


def train(args: argparse.Namespace) -> int:
    """Train, or check and say what would be started; the exit status."""
    config = Path(args.config)
    flags = ["--dry-run"] if args.dry_run else []
    return run_with_display(config, args.overrides, config.stem, flags=flags)


def run_with_display(
    config: Path,
    overrides: list[str],
    name: str,
    steps: int | None = None,
    flags: Sequence[str] = (),
) -> int:
    """Supervise a run, show it, and finish its folder whatever happened.

    Parameters
    ----------
    config, overrides
        The YAML file and its `key=value` overrides.
    name
        Shown.
    steps
        The number of train steps, where it is known beforehand.
    flags
        Of the controller, beside the overrides.

    Returns
    -------
    int
        The exit status.
    """
    # Not `prepare`: the run's workers may have GPUs where this machine has none.
    check_versions()
    folder, goes_on = run_folder(check_early(config, overrides))
    with ExitStack() as stack:
        if folder and "--dry-run" not in flags:
            held = claimed(RunFolder(folder), goes_on)
            if unlocked := stack.enter_context(held):
                note(f"{unlocked}; see to it that no other run uses it")
        return _run(config, overrides, name, steps, flags)


def _run(
    config: Path,
    overrides: list[str],
    name: str,
    steps: int | None,
    flags: Sequence[str],
) -> int:
    log = Path(tempfile.mkdtemp(prefix="areal-cppo-")) / "controller.log"
    with live_display(steps, name, stream=sys.stdout) as live:

        def show(event: dict[str, Any]) -> None:
            kind = event["kind"]
            if kind == "note":
                live.note(event["text"])
            elif kind == "training":
                live.note("training begins")
            elif kind == "step":
                live.step(event["record"])
            elif kind == "evaluation":
                told = {key: event[key] for key in ("step", "accuracy", "n", "of")}
                live.evaluation(**told)

        outcome = supervise(config, [*flags, *overrides], log, show)
    return _conclude(outcome, log)


def _conclude(outcome: RunEnd, log: Path) -> int:
    """Write what can be written of the run's folder, and say how it ended.

    The log moves into the folder; if that can't be, it stays where it is.
    """
    folder = outcome.folder
    keep_log = folder is None and outcome.status == 1
    if folder is not None:
        from areal_cppo.run.finish import finish_run

        try:
            run = RunFolder(folder)
            begun = not run.finished()  # else it was refused before it was
            if begun and outcome.status not in (0, STOPPED, INTERRUPTED, TERMINATED):
                run.event(FAILED, reason=outcome.error, status=outcome.status)
            shutil.copyfile(log, folder / "logs" / log.name)
            print(f"report: {finish_run(folder)}")
        except OSError as error:
            print(f"the report was not finished: {error}", file=sys.stderr)
            keep_log = True
    if keep_log:
        print(f"the run's log: {log}", file=sys.stderr)
    else:
        shutil.rmtree(log.parent)
    if outcome.error:
        ended = outcome.status in (INTERRUPTED, TERMINATED)
        then = _how_to_go_on(folder) if ended else ""
        print(f"areal-cppo: {outcome.error}{then}", file=sys.stderr)
    return outcome.status


def _how_to_go_on(folder: Path | None) -> str:
    """What becomes of a run that was interrupted."""
    if folder is None:
        return ""
    run = RunFolder(folder)
    if not run.metrics.exists():
        return " before its first step"
    kept = f"; what was measured is kept in {folder}"
    if not any(run.recover.glob("step-*")):
        return f"{kept}; without recover.mode=on there is no checkpoint to go on from"
    return f"{kept}; the same command with recover.mode=on goes on from its checkpoint"
