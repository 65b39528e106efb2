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

from areal_cppo.bench.async_figures import figures
from areal_cppo.bench.async_run import read_run
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder, replace_file
from areal_cppo.report.confidence import wilson_interval

SETTINGS = "compare.json"


@dataclass(frozen=True)
class Trial:
    """A training run at one bound of staleness."""

    round: int  # from 1
    staleness: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return RunFolder(self.folder).finished()

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
    described = [_describe(trial, warmup) for trial in trials if trial.finished]
    return {"trials": described, "tradeoff": tradeoff(described)}


def _describe(trial: Trial, warmup: int) -> dict[str, Any]:
    recorded = read_run(trial.folder)
    return {
        "round": trial.round,
        "staleness_bound": trial.staleness,
        "folder": f"{trial.folder.parent.name}/{trial.folder.name}",
        "figures": figures(recorded, warmup),
        "accuracy": {
            str(line["step"]): {"accuracy": line["accuracy"], "n": line["n"]}
            for line in recorded.run.evaluations
        },
    }


def tradeoff(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry a bound, the smallest first."""
    by_bound: dict[int, list[dict[str, Any]]] = {}
    for trial in sorted(described, key=lambda trial: trial["staleness_bound"]):
        by_bound.setdefault(trial["staleness_bound"], []).append(trial)
    first = next(iter(by_bound.values()), [])
    base = {trial["round"]: trial["figures"]["samples_per_second"] for trial in first}
    return [_entry(bound, own, base) for bound, own in by_bound.items()]


def _entry(
    bound: int, own: Sequence[dict[str, Any]], base: dict[int, float]
) -> dict[str, Any]:
    """Of the trials of a bound; `base`: samples/s of the first bound by round."""
    found = [trial["figures"] for trial in own]
    rates = [each["samples_per_second"] for each in found]
    ratios = [
        rate / base[trial["round"]]
        for trial, rate in zip(own, rates)
        if trial["round"] in base
    ]
    stale = [each["staleness"] for each in found if each["staleness"]]
    idle = [each["trainer"]["idle_share"] for each in found]
    means = [each["mean"] for each in stale]
    return {
        "staleness_bound": bound,
        "rounds": len(own),
        "samples_per_second": statistics.median(rates),
        "ratio": statistics.median(ratios) if ratios else None,
        "ratios": ratios,
        "staleness_mean": statistics.fmean(means) if means else None,
        "staleness_max": max((each["max"] for each in stale), default=None),
        "trainer_idle_share": statistics.fmean(idle),
        "accuracy": _accuracy(own),
    }


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
