"""Several runs on one page: curves over each other, settings, figures, warnings."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from areal_cppo.folder import RunFolder, replace_file
from areal_cppo.metrics import meanings
from areal_cppo.report.compare_plots import comparison_plots
from areal_cppo.report.headline import run_size, run_title
from areal_cppo.report.heldout import (
    Change,
    HeldOut,
    accuracy_change,
    best_point,
    heldout_points,
)
from areal_cppo.report.page import number, render
from areal_cppo.report.runs import RunContents, is_number, load_run
from areal_cppo.report.settings import differing, distinct_names, flatten
from areal_cppo.report.trend import counts_last, trend

MOST_RUNS = 12  # colours and lines that can still be told apart
# Where and when, which is said of a run elsewhere.
_NO_FIGURES = {"step", "version", "time", "seconds", "samples"}
MARK = "areal_cppo comparison of runs"  # says that a file is a page of this kind
# What decides which problems are measured on, and in which order.
_PROBLEMS = (
    *("data.source", "data.columns", "data.limit", "data.bad_rows"),
    *("data.max_prompt_tokens", "data.pass_rate"),
    *("valid_dataset.path", "valid_dataset.split", "valid_dataset.shuffle"),
    *("heldout.", "validation.problems"),
)
_DRAWN_BY_SEED = ("data.limit", "valid_dataset.shuffle")
# What a report of one run lacks without these is not missed beside others.
_NOT_COMPARED = ("samples.json", "timeline.json", "summary.json")


@dataclass(frozen=True)
class ComparedRun:
    """A run on the page: its letter, its name, and what is said of it."""

    letter: str
    name: str
    run: RunContents
    report: str | None  # where its own report is, seen from the page

    @property
    def label(self) -> str:
        return f"{self.letter} {self.name}"

    @property
    def title(self) -> str:
        return run_title(self.run)

    @property
    def size(self) -> str:
        return run_size(self.run)

    @property
    def points(self) -> list[HeldOut]:
        return heldout_points(self.run)

    @property
    def best(self) -> HeldOut | None:
        return best_point(self.points)

    @property
    def sampled(self) -> str | None:
        """The last average-at-k, with its interval."""
        lines = [e for e in self.run.evaluations if is_number(e.get("average_at_k"))]
        if not lines:
            return None
        last = lines[-1]
        ends = last.get("average_at_k_interval") or ()
        spread = " to ".join(number(end, "share") for end in ends)
        said = f"{number(last['average_at_k'], 'share')} of {number(last.get('k'))}"
        return f"{said}{spread and f' ({spread})'}, step {last['step']}"

    def measured_at(self, step: int) -> HeldOut | None:
        return next((p for p in self.points if p.step == step), None)


@dataclass(frozen=True)
class Difference:
    """The held-out accuracy of a run against the first one's."""

    against: ComparedRun
    run: ComparedRun
    change: Change

    @property
    def steps(self) -> str:
        before, after = self.change.before.step, self.change.after.step
        if before == after:
            return f"step {number(after)}"
        return f"steps {number(before)} and {number(after)}"

    @property
    def how(self) -> str:
        if self.change.interval is None:
            return "no interval: how many problems is not recorded"
        return "problem by problem" if self.change.paired else "unpaired"


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page of several runs.

    Parameters
    ----------
    folders
        Of runs, also of such as still go on.
    out
        The page. Only a page of this kind is written over.

    Raises
    ------
    ValueError
        In one line: a folder is no run's or is named twice, there are too many, or
        `out` is something else's or can't be written.
    """
    out = Path(out)
    _check_out(out)
    html = comparison_html(load_compared(folders, out))
    try:
        replace_file(out, html)
    except OSError as error:
        raise ValueError(
            f"-o: expected a file that can be written, found {out}: {error.strerror}; "
            "name another"
        ) from error
    return out


def load_compared(folders: Sequence[str | Path], out: Path) -> list[ComparedRun]:
    """The runs, in the order in which they were named; `ValueError` as above."""
    if len(folders) > MOST_RUNS:
        raise ValueError(
            f"expected at most {MOST_RUNS} runs, found {len(folders)}; more can't be "
            "told apart in a picture: leave some out"
        )
    real = [os.path.realpath(folder) for folder in folders]
    for folder, path in zip(folders, real, strict=True):
        if real.count(path) > 1:
            raise ValueError(
                f"expected different runs, found {folder} more than once; name it once"
            )
    compared = []
    names = distinct_names(real)
    for at, (folder, name) in enumerate(zip(real, names, strict=True)):
        page = Path(folder, "report.html")
        link = quote(os.path.relpath(page, os.path.realpath(out.parent)))
        run = load_run(folder)
        compared.append(
            ComparedRun(chr(ord("A") + at), name, run, link if page.is_file() else None)
        )
    return compared


def comparison_html(compared: list[ComparedRun]) -> str:
    """The page."""
    titles = _meanings(compared)
    configs = [flatten(each.run.config) for each in compared]
    return render(
        "compare.html.j2",
        mark=MARK,
        title=f"Comparison of {len(compared)} runs",
        compared=compared,
        differences=list(differences(compared)),
        plots=comparison_plots([(c.label, c.run) for c in compared], titles),
        settings=differing(configs),
        unknown=[c.letter for c in compared if not c.run.config],
        figures=list(_figures(compared, titles)),
        gaps=[
            (each.label, note)
            for each in compared
            for note in each.run.notes
            if not note.startswith(_NOT_COMPARED)
        ],
        unequal=len({len(each.run.metrics) for each in compared}) > 1,
    )


def differences(compared: list[ComparedRun]) -> Iterator[Difference]:
    """Each run against the first: where both were measured last, and at their ends."""
    first, *others = compared
    for other in others:
        common = {p.step for p in first.points} & {p.step for p in other.points}
        pairs = [(max(common), max(common))] if common - {0} else []
        if first.points and other.points:
            ends = first.points[-1].step, other.points[-1].step
            pairs += [ends] if ends not in pairs else []
        for before, after in pairs:
            ours, theirs = first.measured_at(before), other.measured_at(after)
            if not same_problems(first.run, other.run):
                ours = replace(ours, outcomes=None)
            change = accuracy_change([ours, theirs])
            yield Difference(first, other, change)


def same_problems(a: RunContents, b: RunContents) -> bool:
    """Whether two runs were measured on the same problems in the same order, as far
    as their settings tell; without settings, no."""
    if not (a.config and b.config):
        return False
    one, two = ({"seed": r.config.get("seed")} | flatten(r.config) for r in (a, b))
    keys = [key for key in one.keys() | two.keys() if key.startswith(_PROBLEMS)]
    if any(one.get(key) for key in _DRAWN_BY_SEED):
        keys.append("seed")
    return all(one.get(key) == two.get(key) for key in keys)


def _meanings(compared: list[ComparedRun]) -> dict[str, dict[str, str]]:
    """Title and unit of each metric that any of the runs recorded, in order."""
    recorded = {key for c in compared for line in c.run.metrics for key in line}
    known: dict[str, dict[str, str]] = {}
    for each in compared if recorded else ():
        known |= meanings(RunFolder(each.run.folder).meanings)
    names = [*known, *sorted(recorded - known.keys())]
    return {
        name: known.get(name, {"title": _part(name), "unit": "", "help": ""})
        for name in names
        if name in recorded and name not in _NO_FIGURES
    }


def _part(name: str) -> str:
    """Of a part of somebody's own reward as ours are called; others as they are."""
    return re.sub("^reward/", "Reward: ", name)


def _figures(compared: list[ComparedRun], titles: dict) -> Iterator[dict[str, Any]]:
    """A row a metric: the mean of each run's last steps."""
    for name, meaning in titles.items():
        values = []
        for each in compared:
            series = each.run.series(name)[1]
            found = trend(series[-1:] if counts_last(name) else series)
            values.append(found and found.mean)
        if any(value is not None for value in values):
            shown = [number(value, meaning["unit"]) for value in values]
            yield {"name": name, "title": meaning["title"], "shown": shown}


def _check_out(out: Path) -> None:
    """Refuse to write over what isn't a page of this kind, before runs are read."""
    if out.is_dir() or not out.parent.is_dir():
        found = "a folder" if out.is_dir() else "no folder for it"
        raise ValueError(
            f"-o: expected a file's name, found {found}: {out}; correct it"
        )
    if out.exists():
        with out.open(encoding="utf-8", errors="replace") as stream:
            if MARK not in stream.read(100_000):
                raise ValueError(
                    f"-o: expected a new file or an older comparison, found something "
                    f"else in {out}; name another, or move it away"
                )
