"""`areal-cppo train`: a supervised run with a live display."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from areal_cppo.report.live import live_display
from areal_cppo.run.finish import finish_run
from areal_cppo.run.supervisor import Outcome, supervise


def train(config: str, overrides: list[str], dry_run: bool = False) -> int:
    """Train with a YAML file and its overrides; returns the exit status.

    A dry run checks them and says what would be started.
    """
    flags = ["--dry-run"] if dry_run else []
    return run_with_display(Path(config), flags + overrides, name=Path(config).stem)


def run_with_display(
    config: Path,
    overrides: list[str],
    name: str,
    steps: int | None = None,
) -> int:
    """Supervise a run, show it, and finish its folder whatever happened.

    `steps` is the number of train steps, where it is known beforehand.
    """
    log = Path(tempfile.mkdtemp(prefix="areal-cppo-")) / "controller.log"
    with live_display(steps, name, stream=sys.stdout) as live:
        outcome = supervise(config, overrides, log, Display(live))
    return conclude(outcome, log)


def conclude(outcome: Outcome, log: Path) -> int:
    """Write what can be written of the run's folder, and say how it ended.

    The log moves into the folder; if that can't be, it stays where it is.
    """
    folder = outcome.folder
    keep_log = folder is None and outcome.status == 1
    if folder is not None:
        try:
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
        print(f"areal-cppo: {outcome.error}", file=sys.stderr)
    return outcome.status


class Display:
    """Passes a run's events on to the live display."""

    def __init__(self, live):
        self.live = live

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "note":
            self.live.note(event["text"])
        elif kind == "training":
            self.live.note("training begins")
        elif kind == "step":
            self.live.step(event["record"])
        elif kind == "evaluation":
            self.live.evaluation(event["step"], event["accuracy"], event["n"])
