"""Print the tables of evidence.md that a study's summary makes.

python docs/evidence.py FOLDER    # of examples/cppo/studies/robustness.yaml
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from areal_cppo.report.figure_style import style

NAMES = {
    "grpo": "GRPO",
    "aug": "augmentation",
    "noisyrollout": "NoisyRollout",
    "papo": "PAPO",
    "vppo": "VPPO",
    "dvrp": "DVRP",
    "pgpo": "PGPO",
    "cppo": "CPPO, default",
    "cppo,k=1": "CPPO, one response",
    "robust": "`robust`",
    "consistent": "`consistent`",
}
ALL, BOTH = "all tasks", ("none", "mean of shifts")
GREEDY, SAMPLED = "accuracy", "accuracy_sampled"
KINDS = {
    "none": "as trained on",
    "mean of shifts": "mean of shifts",
    "as in views": "shifts of kinds that views have",
    "held out": "other shifts",
}
SHOWN = ("aug", "noisyrollout", "cppo", "robust", "consistent")


class Tables:
    """Rows of a summary, in points."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        self.tasks = tasks

    def arm(self, task: str, shift: str, arm: str) -> dict[str, Any]:
        return next(x for x in self.tasks[task][shift] if x["arm"] == arm)

    def level(self, task: str, shift: str, key: str = GREEDY) -> str:
        return f"{100 * self.arm(task, shift, 'grpo')['means'][key]['mean']:.1f}"

    def less(
        self,
        task: str,
        shift: str,
        arm: str,
        reference: str = "grpo",
        key: str = GREEDY,
        interval: bool = True,
    ) -> str:
        """A difference, bold where its interval excludes zero."""
        found = self.arm(task, shift, arm)["differences"][reference][key]
        mean, low, high = (100 * found[x] for x in ("mean", "low", "high"))
        text = f"{mean:+.1f}" + f" ({low:+.1f} to {high:+.1f})" * interval
        return f"**{text}**" if low > 0 or high < 0 else text

    def price(self, arm: str) -> str:
        mine, grpo = (
            self.arm(ALL, "none", x)["means"]["cpu_seconds"]["mean"]
            for x in (arm, "grpo")
        )
        return f"{mine / grpo:.2f}"


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    lines = [["", *head], ["---"] * (len(head) + 1), *rows]
    print(f"\n{title}\n", *(f"| {' | '.join(line)} |" for line in lines), sep="\n")


def show(summary: dict[str, Any]) -> None:
    """Print all tables of a study's `summary.json`."""
    tables = Tables(summary["tasks"])
    tasks = [task for task in tables.tasks if task != ALL]
    others = [arm for arm in NAMES if arm != "grpo"]
    cells = [(shift, key) for shift in BOTH for key in (GREEDY, SAMPLED)]
    table(
        "The three tasks together (the mean over them, seed by seed), less GRPO:",
        [
            "as trained on, greedy",
            "sampled",
            "mean of seven shifts, greedy",
            "sampled",
            "CPU, to GRPO",
        ],
        [["GRPO", *(tables.level(ALL, *cell) for cell in cells), "1"]]
        + [
            [
                NAMES[arm],
                *(tables.less(ALL, shift, arm, key=key) for shift, key in cells),
                tables.price(arm),
            ]
            for arm in others
        ],
    )
    cells = [(task, shift) for task in tasks for shift in BOTH]
    table(
        "Each task, greedy, less GRPO:",
        [f"{task}, {KINDS[shift]}" for task, shift in cells],
        [["GRPO", *(tables.level(*cell) for cell in cells)]]
        + [
            [NAMES[arm], *(tables.less(*cell, arm) for cell in cells)] for arm in others
        ],
    )
    table(
        "`robust` less what a practitioner would take instead, greedy:",
        [*tasks, "all three"],
        [
            [
                f"{words}, less {NAMES[reference]}",
                *(
                    tables.less(task, shift, "robust", reference)
                    for task in (*tasks, ALL)
                ),
            ]
            for shift, words in KINDS.items()
            for reference in ("grpo", "aug", "noisyrollout")
        ],
    )
    shifts = [shift for shift in tables.tasks[ALL] if shift not in KINDS]
    table(
        "Shift by shift, all three tasks, greedy, less GRPO:",
        shifts,
        [["GRPO", *(tables.level(ALL, shift) for shift in shifts)]]
        + [
            [
                NAMES[arm],
                *(tables.less(ALL, shift, arm, interval=False) for shift in shifts),
            ]
            for arm in SHOWN
        ],
    )
    table(
        "One response of a group less all of them:",
        [*tasks, "all three"],
        [
            [
                words,
                *(
                    tables.less(task, "none", "cppo,k=1", "cppo", key)
                    for task in (*tasks, ALL)
                ),
            ]
            for words, key in (("greedy", GREEDY), ("sampled", SAMPLED))
        ],
    )


def draw(summary: dict[str, Any], file: Path) -> None:
    """Each arm's difference to GRPO over the tasks, as trained on and under shifts."""
    arms = [arm for arm in NAMES if arm != "grpo"][::-1]
    tables = Tables(summary["tasks"])
    with style():
        figure = Figure(figsize=(9, 4), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for panel, shift in zip(panels, BOTH, strict=True):
            panel.axvline(0, color="grey", linewidth=1)
            for row, arm in enumerate(arms):
                found = tables.arm(ALL, shift, arm)["differences"]["grpo"][GREEDY]
                mean, low, high = (100 * found[x] for x in ("mean", "low", "high"))
                color = "C1" if arm in ("robust", "consistent") else "C0"
                panel.plot([low, high], [row, row], color=color)
                panel.plot(mean, row, "o", color=color)
            panel.set_title(KINDS[shift])
            panel.set_xlabel("greedy accuracy less GRPO's, points")
        panels[0].set_yticks(range(len(arms)), [NAMES[arm].strip("`") for arm in arms])
        figure.savefig(file, dpi=110)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    show(summary)
    draw(summary, folder / "evidence.png")
