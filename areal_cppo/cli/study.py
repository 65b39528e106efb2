"""`areal-cppo study`: a grid of small runs, with a table, numbers and pictures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from areal_cppo import __version__
from areal_cppo.cli.common import Parser, output_file, prepare
from areal_cppo.errors import RunError, UserError


class _Intermixed(Parser):
    """Takes `FILE --out DIR key=value`, where argparse would have options last."""

    _inside = False

    def parse_known_args(self, args=None, namespace=None):
        if self._inside:  # argparse's own calls
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def add_study(commands: Any) -> None:
    """Add `study` to the parser's commands."""
    command = commands.add_parser(
        "study",
        help="grids of small runs on synthetic tasks, tables and plots",
        description="Trains every arm of a study with every seed, on CPU cores of this "
        "machine, and compares them. Cut off, it goes on where it was.",
    )
    command.__class__ = _Intermixed
    command.add_argument("file", metavar="FILE", help="see examples/cppo/studies")
    command.add_argument("--out", metavar="DIR", help="folder (runs/study-NAME)")
    command.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time (the cores)"
    )
    command.add_argument("--seeds", type=int, metavar="N", help="1 to N, of each arm")
    command.add_argument("--json", metavar="FILE", help="write the summary there, too")
    command.add_argument(
        "--dry-run", action="store_true", help="list the runs, estimate the time"
    )
    command.add_overrides()
    command.set_defaults(call=study)


def study(args: argparse.Namespace) -> int:
    """Make what is not made yet, print the table; the exit status."""
    from areal_cppo.studies.arms import check_exist, read_document

    jobs = _count("--jobs", args.jobs, os.cpu_count() or 1)
    changes = list(args.overrides)
    if args.seeds is not None:
        changes.append(f"seeds={_count('--seeds', args.seeds, 1)}")
    target = output_file(args.json, "--json") if args.json else None
    read_document(Path(args.file))
    prepare()
    from areal_cppo.studies.folder import StudyFolder
    from areal_cppo.studies.pool import duration, make_runs
    from areal_cppo.studies.spec import read_study

    plan = read_study(args.file, changes)
    check_exist(plan.arms)
    folder = StudyFolder(args.out or f"runs/study-{plan.name}")
    runs = plan.runs()
    waiting = folder.unfinished(runs)
    seconds = _checked(plan)
    total = duration(sum(map(seconds, waiting)) / jobs)
    if args.dry_run:
        for run in runs:
            state = duration(seconds(run)) if run in waiting else "done"
            print(f"{run.folder}  {state}")
        print(f"{len(waiting)} of {len(runs)} runs to make, {jobs} at a time: {total}")
        return 0
    folder.create()
    print(
        f"study {plan.name}: {len(waiting)} of {len(runs)} runs to make, {jobs} at a "
        f"time, about {total}; folder: {folder.path}"
    )
    progress = _Progress()
    try:
        failed = make_runs(folder, waiting, jobs, seconds, progress)
    except KeyboardInterrupt:
        progress.close()
        print("interrupted; the same command goes on with what is left")
        raise
    finally:
        progress.close()
        _conclude(plan, folder, runs, target)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(runs)} runs failed, the first of them "
            f"{failed[0].folder}; its log: {folder.run(failed[0]).log}"
        )
    return 0


def _checked(plan) -> Callable[[Any], float]:
    """Check the arms, which takes AReaL some seconds; what tells a run's seconds."""
    from areal_cppo.bench.quiet import quiet
    from areal_cppo.studies.preflight import check_arms, run_seconds

    with quiet():
        configs = check_arms(plan)
    return lambda run: run_seconds(run, configs[run.arm])


def _conclude(plan, folder, runs, target: Path | None) -> None:
    """Put together, write, draw and print what the finished runs say."""
    from areal_cppo.folder import replace_file
    from areal_cppo.studies import summary
    from areal_cppo.studies.plots import draw_all

    lines = folder.gather(runs)
    if not lines["evaluations"]:
        return
    found = {
        "command": shlex.join(["areal-cppo", *sys.argv[1:]]),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "version": __version__,
    } | summary.summarise(plan, lines["evaluations"])
    found["detection"] = summary.summarise_detection(lines["detection"])
    text = json.dumps(found, indent=1) + "\n"
    for file in (folder.summary, target):
        if file is not None:
            replace_file(file, text)
    files = draw_all(folder.path, found, lines["evaluations"], found["detection"])
    print(summary.table(found))
    if found["detection"]:
        print("\n" + summary.detection_table(found["detection"]))
    print("\n" + summary.LEGEND)
    for file in (folder.summary, *files):
        print(file)


def _count(option: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise UserError(
            f"{option}: expected a whole number >= 1, found {value}; correct it"
        )
    return default if value is None else value


class _Progress:
    """One line that changes on a terminal; elsewhere a line whenever a run ends."""

    def __init__(self):
        self._over = 0
        self._open = False

    def __call__(self, over: int, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._open = True
        elif over > self._over:
            print(text, file=sys.stderr, flush=True)
        self._over = over

    def close(self) -> None:
        """Leave the line."""
        if self._open:
            print(file=sys.stderr, flush=True)
            self._open = False
