"""`areal-cppo eval`: accuracy of a model on a validation set, through SGLang."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from areal_cppo.cli.common import at_least, note, prepare, quoted
from areal_cppo.config.keys import check_early
from areal_cppo.evaluation.model import find_model, model_folder

_NOTE_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on


def add_eval(commands: Any) -> None:
    """Add `eval` to the parser's commands."""
    command = commands.add_parser(
        "eval", help="accuracy of a model on a validation set, with intervals"
    )
    command.add_argument("--model", required=True, metavar="DIR")
    command.add_argument("--config", required=True, metavar="FILE")
    command.add_argument(
        "--k", type=int, help="responses a problem (default: the configuration's)"
    )
    command.add_argument("--limit", type=int, metavar="N", help="problems at most")
    command.add_argument("--out", metavar="DIR", help="folder; one cut off goes on")
    command.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a running server of the model, or several; else one is started",
    )
    command.add_overrides()
    command.set_defaults(call=evaluate)


def evaluate(args: argparse.Namespace) -> int:
    """Measure a model, say what came out, and return the exit status, 0."""
    at_least("--k", args.k, 0, "; give more")
    at_least("--limit", args.limit, 1, "; give more")
    check_early(args.config, args.overrides, paths=["valid_dataset"])
    find_model(args.model)
    prepare()
    from areal_cppo.config.experiment import load_config
    from areal_cppo.evaluation.client import check_server
    from areal_cppo.evaluation.evaluate import Evaluation
    from areal_cppo.evaluation.summary import describe

    # A mistake in it comes before anything is written.
    load_config(args.config, args.overrides, begins=False)
    addresses = [check_server(address) for address in args.server]
    stem = Path(args.model).name.lower() or "model"
    folder = Path(args.out or f"runs/eval-{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    served = model_folder(args.model, folder.absolute(), note)
    own = [f"{key}={quoted(served)}" for key in ("actor.path", "tokenizer_path")]
    settings = load_config(args.config, args.overrides + own, begins=False)
    samples = settings.eval_gconfig.n_samples if args.k is None else args.k
    evaluation = Evaluation(
        settings, samples, args.limit, folder.absolute(), addresses, note
    )
    note(f"{len(evaluation.dataset):,} problems; folder: {folder}")
    try:
        with ProgressDisplay(len(evaluation.dataset)) as progress:
            result = evaluation.run(progress.done)
    except KeyboardInterrupt:
        note(
            f"interrupted; {len(evaluation.folder.records):,} responses are kept, the "
            f"same command with --out {folder} goes on"
        )
        raise
    for line in describe(result, samples, result["temperature"]):
        print(line)
    print(f"evaluation: {evaluation.folder.evaluation}")
    return 0


class ProgressDisplay:
    """A bar on a terminal's standard error; elsewhere a line a minute."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._noted = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("problems"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("problems", total=total)

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def done(self) -> None:
        """One more problem is done."""
        self.count += 1
        self._bar.advance(self._task)
        if self._bar.disable and time.monotonic() - self._noted > _NOTE_SECONDS:
            self._noted = time.monotonic()
            note(f"{self.count:,} of {self.total:,} problems")
