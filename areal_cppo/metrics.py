"""What `metrics.jsonl` says, name by name.

    python -m areal_cppo.metrics

prints the table of metrics in Markdown, as `docs/algorithm.md` has it.

A metric is declared once, where it is computed: a module's `METRICS`. The recorder
takes from there what to look for in AReaL's statistics, and writes what each name means
into the run's folder, for whoever shows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from areal_cppo.config.objectives import OBJECTIVES

UPDATE = "ppo_actor/update/"  # AReaL's scope of what is recorded within an update
PARTS = "reward_parts/"  # what the rewards of a step are made of
_OUR_PARTS = {"reward/answer", "reward/format", "reward/judges_differ"}

# Those of the objectives come behind.
_MODULES = (
    "areal_cppo.run.metrics",
    "areal_cppo.run.validation",
    "areal_cppo.step.metrics",
)


def own_parts(names: Iterable[str]) -> list[str]:
    """The parts of a reward of a user's own among the metrics of a run.

    Of our own reward none: `reward` and `accuracy` say what there is to say.
    """
    parts = {name for name in names if name.startswith("reward/")}
    return [] if parts <= _OUR_PARTS else sorted(parts)


@dataclass(frozen=True)
class Metric:
    """One name of `metrics.jsonl`.

    Attributes
    ----------
    name
        As it stands there.
    title
        For people, without unit.
    unit
        Empty for a number without one.
    help
        Sentences: what it is, and what a good or bad sign looks like.
    key
        AReaL's name of the statistic that it is; None: it is worked out.
    derive
        From the line so far and AReaL's statistics of the step; None where it has no
        meaning.
    sums
        The metric that it sums since the start.
    """

    name: str
    title: str
    unit: str
    help: str
    key: str | None = None
    derive: Callable[[Mapping, Mapping], float | None] | None = None
    sums: str | None = None

    @property
    def meaning(self) -> dict[str, str]:
        """For people: title, unit and help."""
        return {"title": self.title, "unit": self.unit, "help": self.help}

    @property
    def local(self) -> str:
        """The key within an update, where AReaL adds the scope."""
        return self.key.removeprefix(UPDATE)


def share(part: str, whole: str) -> Callable[[Mapping, Mapping], float | None]:
    """A `derive`: one metric of the line divided by another; None where that is 0."""

    def derive(line: Mapping, stats: Mapping) -> float | None:
        return line.get(part, 0.0) / line[whole] if line.get(whole) else None

    return derive


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Refuses two of one name."""
    found: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in found:
            raise ValueError(f"expected one metric {metric.name}, found two")
        found[metric.name] = metric
    return found


@cache
def declared() -> dict[str, Metric]:
    """All of them by name; imports where they are computed, and so torch and AReaL."""
    objectives = [entry.module for entry in OBJECTIVES.values() if entry.module]
    modules = dict.fromkeys([*_MODULES, *objectives])
    return by_name(m for name in modules for m in import_module(name).METRICS)


def meanings(file: Path) -> dict[str, dict[str, str]]:
    """Title, unit and help by name: as a run has written them into its folder, or, in
    one from before runs did so, as they are declared."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return {name: metric.meaning for name, metric in declared().items()}


def table() -> str:
    """All metrics as a Markdown table of name, unit and meaning."""
    rows = [f"| `{m.name}` | {m.unit or '-'} | {m.help} |" for m in declared().values()]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
