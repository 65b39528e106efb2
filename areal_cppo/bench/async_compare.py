"""What staleness buys and costs: the same training at several bounds, alternating.

A *trial* is a training run of so many steps at one bound. A *round* is a trial of each
bound; rounds follow one another, each second one in the opposite order, so that what
slows the machine for a while does not meet always the same bound. The trials of a round
have one seed, those of another another.

**Throughput ratio**: a trial's effective samples/s (`async_figures`) over that of the
same round's trial with the smallest bound, normally 0: there each step waits for the
responses of its own version, as synchronous training does. The median over rounds.

**Accuracy at equal samples**: held-out accuracy at the same step, therefore after the
same number of samples; the mean over rounds.

All of it is in one folder, a folder a trial. What is finished is not run again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from areal_cppo.bench.async_figures import figures
from areal_cppo.bench.async_run import held_out, read_run
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder, read_lines, replace_file
from areal_cppo.report import figure_style as fs
from areal_cppo.report.confidence import wilson_interval

SETTINGS = "compare.json"
_DPI = 150


@dataclass(frozen=True)
class Trial:
    """A training run at one bound of staleness."""

    round: int  # from 1
    staleness: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        events = read_lines(RunFolder(self.folder).events)
        return any(event.get("event") == "run_finished" for event in events)

    def set_aside(self) -> None:
        """Make room for a new attempt at a trial that was cut off."""
        if not self.folder.exists():
            return
        number = 1
        while (aside := Path(f"{self.folder}-cut-off-{number}")).exists():
            number += 1
        self.folder.rename(aside)


def schedule(bounds: Sequence[int], rounds: int, out: Path) -> list[Trial]:
    """All trials, in the order in which they are run.

    Raises
    ------
    UserError
        A bound is negative or repeated, or there is no round.
    """
    if len(bounds) < 2 or len(set(bounds)) < len(bounds) or min(bounds) < 0:
        raise UserError(
            "--staleness: expected at least two different numbers >= 0 such as "
            f"0,1,2,4,8, found {','.join(map(str, bounds)) or 'none'}; correct it"
        )
    if rounds < 1:
        raise UserError(f"--alternate: expected a number >= 1, found {rounds}")
    return [
        Trial(number, bound, out / f"round-{number}" / f"staleness-{bound}")
        for number in range(1, rounds + 1)
        for bound in (bounds if number % 2 else reversed(bounds))
    ]


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Remember what the trials of a folder have in common; it may not change.

    `rounds` may: more of them can be added.

    Raises
    ------
    UserError
        The folder holds trials of other settings, or something else.
    """
    file = out / SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(k for k in settings if settings[k] != before.get(k))
        if changed:
            raise UserError(
                f"--out: expected trials of the same settings, found others in {out}: "
                f"{', '.join(changed)}; name another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"--out: expected a new folder or one of these trials, found {out} in use; "
            "name another"
        )
    out.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(settings, indent=1) + "\n")


def run_trials(
    trials: Sequence[Trial],
    start: Callable[[Trial], int],
    note: Callable[[str], None],
) -> int:
    """Run what is not finished; the first exit status that isn't 0, and then no more.

    Parameters
    ----------
    start
        Runs a trial to its end and returns its exit status.
    """
    for number, trial in enumerate(trials, start=1):
        name = f"trial {number} of {len(trials)}: round {trial.round}, staleness"
        if trial.finished:
            note(f"{name} {trial.staleness}: finished before")
            continue
        note(f"{name} {trial.staleness}")
        trial.set_aside()
        status = start(trial)
        if status:
            return status
    return 0


def describe(trials: Sequence[Trial], warmup: int) -> dict[str, Any]:
    """`trials` with their figures, and the trade-off by bound."""
    described = []
    for trial in trials:
        if not trial.finished:
            continue
        accuracies = held_out(trial.folder)
        described.append(
            {
                "round": trial.round,
                "staleness_bound": trial.staleness,
                "folder": f"{trial.folder.parent.name}/{trial.folder.name}",
                "figures": figures(read_run(trial.folder), warmup),
                "accuracy": {
                    str(step): {"accuracy": share, "n": n}
                    for step, (share, n) in sorted(accuracies.items())
                },
            }
        )
    return {"trials": described, "tradeoff": tradeoff(described)}


def tradeoff(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry a bound, the smallest first."""
    bounds = sorted({trial["staleness_bound"] for trial in described})
    if not bounds:
        return []
    base = {
        trial["round"]: trial["figures"]["samples_per_second"]
        for trial in described
        if trial["staleness_bound"] == bounds[0]
    }
    entries = []
    for bound in bounds:
        own = [trial for trial in described if trial["staleness_bound"] == bound]
        rates = [trial["figures"]["samples_per_second"] for trial in own]
        ratios = [
            trial["figures"]["samples_per_second"] / base[trial["round"]]
            for trial in own
            if trial["round"] in base
        ]
        stale = [t["figures"]["staleness"] for t in own if t["figures"]["staleness"]]
        entries.append(
            {
                "staleness_bound": bound,
                "rounds": len(own),
                "samples_per_second": statistics.median(rates),
                "ratio": statistics.median(ratios) if ratios else None,
                "ratios": ratios,
                "staleness_mean": (
                    statistics.fmean(each["mean"] for each in stale) if stale else None
                ),
                "staleness_max": max((each["max"] for each in stale), default=None),
                "trainer_idle_share": statistics.fmean(
                    trial["figures"]["trainer"]["idle_share"] for trial in own
                ),
                "accuracy": _accuracy(own),
            }
        )
    return entries


def _accuracy(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By step at which all of a bound's trials were evaluated: the mean of the rounds.

    Its Wilson interval (95 %) is that of one round's problems, which are the same in
    all rounds; how far trainings of other seeds differ is seen from `each`.
    """
    common = set.intersection(*(set(trial["accuracy"]) for trial in own))
    found = {}
    for step in sorted(common, key=int):
        parts = [trial["accuracy"][step] for trial in own]
        mean = statistics.fmean(part["accuracy"] for part in parts)
        n = min(part["n"] for part in parts)
        low, high = wilson_interval(mean * n, n)
        each = [part["accuracy"] for part in parts]
        found[step] = {"accuracy": mean, "n": n, "low": low, "high": high, "each": each}
    return found


_HEADINGS = (
    "bound",
    "rounds",
    "samples/s",
    "ratio (min-max)",
    "staleness",
    "trainer idle",
    "accuracy",
)


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, a line a bound; the accuracy is that after the last step."""
    rows = [_HEADINGS]
    for entry in entries:
        ratios, last = entry["ratios"], _last(entry)
        ratio = "-"
        if ratios:
            ratio = f"{entry['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        stale = entry["staleness_mean"]
        accuracy = "-"
        if last is not None:
            accuracy = f"{last['accuracy']:.1%} ({last['low']:.1%}-{last['high']:.1%})"
        rows.append(
            (
                f"{entry['staleness_bound']}",
                f"{entry['rounds']}",
                f"{entry['samples_per_second']:.2f}",
                ratio,
                "-" if stale is None else f"{stale:.2f}",
                f"{entry['trainer_idle_share']:.1%}",
                accuracy,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows
    )


def _last(entry: dict[str, Any]) -> dict[str, Any] | None:
    return next(reversed(entry["accuracy"].values()), None)


def draw(entries: Sequence[dict[str, Any]], path: str) -> Path:
    """Draw throughput and accuracy against the bound; the picture's path."""
    with fs.style():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        rate, accuracy = figure.subplots(1, 2)
        known = [entry for entry in entries if entry["ratios"]]
        places = range(len(entries))
        for place, entry in zip(places, entries):
            ratios = entry["ratios"]
            rate.plot([place] * len(ratios), ratios, "o", color=fs.SKY, markersize=4)
            last = _last(entry)
            if last is not None:
                share = last["accuracy"]
                around = [[share - last["low"]], [last["high"] - share]]
                accuracy.errorbar(
                    place, share, around, color=fs.BLUE, marker="o", capsize=3
                )
        middle = [entry["ratio"] for entry in known]
        rate.plot([entries.index(entry) for entry in known], middle, color=fs.BLUE)
        rate.axhline(1, color=fs.MUTED, linewidth=0.8)
        rate.set_ylim(bottom=0)
        first = entries[0]["staleness_bound"]
        rate.set_ylabel(f"samples/s, ratio to bound {first}")
        accuracy.set_ylabel("held-out accuracy at equal samples")
        for ax in (rate, accuracy):
            ax.set_xticks(places, [str(entry["staleness_bound"]) for entry in entries])
            ax.set_xlabel("bound of staleness (versions)")
        figure.savefig(path, dpi=_DPI)
    return Path(path)
