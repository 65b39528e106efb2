"""`areal-cppo eval`: accuracy of a model on a validation set, through SGLang."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from areal_cppo.cli.demo import quoted
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

_NOTE_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on


def evaluate(
    model: str,
    config: str,
    k: int | None,
    limit: int | None,
    out: str | None,
    servers: list[str],
    overrides: list[str],
) -> int:
    """Measure a model, say what came out, and return the exit status, 0.

    `k` is by default the number of samples that the configuration's generation says.
    """
    for name, value, least in (("--k", k, 0), ("--limit", limit, 1)):
        if value is not None and value < least:
            raise UserError(
                f"{name}: expected a number >= {least}, found {value}; give more"
            )
    enable_in_this_process()
    from areal_cppo.config.experiment import load_config
    from areal_cppo.evaluation.client import check_server
    from areal_cppo.evaluation.evaluate import Evaluation
    from areal_cppo.evaluation.model import model_folder
    from areal_cppo.evaluation.summary import describe

    load_config(config, overrides)  # a mistake in it comes before anything is written
    addresses = [check_server(address) for address in servers]
    stem = Path(model).name.lower() or "model"
    folder = Path(out or f"runs/eval-{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    served = model_folder(model, folder.absolute(), _note)
    own = [f"{key}={quoted(served)}" for key in ("actor.path", "tokenizer_path")]
    settings = load_config(config, overrides + own)
    samples = settings.eval_gconfig.n_samples if k is None else k
    evaluation = Evaluation(
        settings, samples, limit, folder.absolute(), addresses, _note
    )
    _note(f"{len(evaluation.dataset):,} problems; folder: {folder}")
    try:
        with ProgressDisplay(len(evaluation.dataset)) as progress:
            result = evaluation.run(progress.done)
    except KeyboardInterrupt:
        _note(
            f"interrupted; {len(evaluation.folder.records):,} responses are kept, the "
            f"same command with --out {folder} goes on"
        )
        raise
    for line in describe(result, samples, result["temperature"]):
        print(line)
    print(f"evaluation: {evaluation.folder.evaluation}")
    return 0


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
            _note(f"{self.count:,} of {self.total:,} problems")
