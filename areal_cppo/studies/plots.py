"""Pictures of a study: learning curves, differences, selection, detection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from areal_cppo.report import figure_style as fs
from areal_cppo.studies.spec import NO_SHIFT
from areal_cppo.studies.summary import COMPARED, means

Line = dict[str, Any]

_COLORS = (fs.BLUE, fs.VERMILLION, fs.GREEN, fs.PURPLE, fs.ORANGE, fs.SKY, fs.MUTED)
_DPI = 150
_LABELS = {
    "accuracy": "greedy accuracy",
    "accuracy_sampled": "sampled accuracy",
    "selection_precision": "precision of the selection",
    "selection_recall": "recall of the selection",
    "gain_average_precision": "average precision of the gain",
}
_SELECTION = ("selection_precision", "selection_recall", "gain_average_precision")


def draw_all(
    folder: Path,
    summary: dict[str, Any],
    lines: Sequence[Line],
    detection: Sequence[dict[str, Any]],
) -> list[Path]:
    """Write the pictures that there is anything for; the files."""
    pictures = {}
    unshifted = pd.DataFrame([line for line in lines if line["shift"] == NO_SHIFT])
    if len(unshifted) and unshifted["step"].nunique() > 1:
        pictures["curves"] = _by_step(unshifted, COMPARED)
        pictures["selection"] = _by_step(unshifted, _SELECTION)
    if any(_differences(summary)):
        pictures["differences"] = _forest(summary)
    if any(sum(map(bool, shifts.values())) > 1 for shifts in summary["tasks"].values()):
        pictures["shifts"] = _shifts(summary)
    if detection:
        pictures["detection"] = _heatmaps(detection)
    files = []
    for name, draw in pictures.items():
        files.append(folder / f"{name}.png")
        draw.savefig(files[-1], dpi=_DPI)
    return files


def _by_step(lines: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per task and measure: means over seeds, with their intervals."""
    tasks, arms = lines["task"].unique(), lines["arm"].unique()
    with fs.style():
        figure = Figure(
            figsize=(4.6 * len(names), 3.4 * len(tasks) + 0.25 * (len(arms) // 4 + 1)),
            layout="constrained",
        )
        axes = figure.subplots(len(tasks), len(names), sharex=True, squeeze=False)
        for row, task in zip(axes, tasks, strict=True):
            own = lines[lines["task"] == task]
            for ax, name in zip(row, names, strict=True):
                _curves(ax, own, arms, name)
                ax.set_title(task if len(tasks) > 1 else "")
                ax.set_ylabel(_LABELS[name])
                if name in _SELECTION:
                    ax.set_ylim(0, 1)
                fs.step_axis(ax)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def _curves(ax: Axes, lines: pd.DataFrame, arms: Sequence[str], name: str) -> None:
    styles = (line for line in ("-", "--", ":", "-.") for _ in _COLORS)
    for arm, color, style in zip(arms, cycle(_COLORS), cycle(styles)):
        by_step = {
            step: means(at, [name])
            for step, at in lines[lines["arm"] == arm].groupby("step")
        }
        found = {step: value[name] for step, value in by_step.items() if value}
        steps, values = list(found), found.values()
        mean = [value["mean"] for value in values]
        ends = [
            [x["mean"] if x[end] is None else x[end] for x in values]
            for end in ("low", "high")
        ]
        ax.plot(steps, mean, style, color=color, label=arm, marker="o", markersize=3)
        ax.fill_between(steps, *ends, color=color, alpha=0.15, linewidth=0)


def _differences(summary: dict[str, Any]):
    """Task, reference, arm, and the difference in greedy accuracy."""
    for task, shifts in summary["tasks"].items():
        for reference in summary["references"]:
            for arm in shifts[NO_SHIFT]:
                if reference in arm["differences"]:
                    found = arm["differences"][reference]["accuracy"]
                    yield task, reference, arm["arm"], found


def _forest(summary: dict[str, Any]) -> Figure:
    """A panel per reference: paired differences with their intervals."""
    found = list(_differences(summary))
    references = list(dict.fromkeys(reference for _, reference, _, _ in found))
    tasks = list(summary["tasks"])
    rows = max(sum(f[1] == reference for f in found) for reference in references)
    with fs.style():
        figure = Figure(
            figsize=(5.0 * len(references) + 1, 1.2 + 0.36 * rows), layout="constrained"
        )
        axes = figure.subplots(1, len(references), squeeze=False)[0]
        for ax, reference in zip(axes, references, strict=True):
            own = [f for f in found if f[1] == reference]
            for place, (task, _, _, value) in enumerate(own):
                color = _COLORS[tasks.index(task) % len(_COLORS)]
                if value["low"] is not None:
                    ends = [value["low"], value["high"]]
                    ax.plot(ends, [place, place], color=color)
                ax.plot(value["mean"], place, "o", color=color)
            ax.axvline(0, color=fs.MUTED, linewidth=0.8, zorder=0)
            several = len(tasks) > 1
            names = [f"{arm} ({task})" if several else arm for task, _, arm, _ in own]
            ax.set_yticks(range(len(own)), names)
            ax.set_ylim(len(own) - 0.5, -0.5)
            ax.set_xlabel(f"greedy accuracy less that of {reference}")
    return figure


def _shifts(summary: dict[str, Any]) -> Figure:
    """A panel per task and measure: accuracy by held-out shift, a mark per arm."""
    tasks = list(summary["tasks"])
    arms = [arm["arm"] for arm in summary["tasks"][tasks[0]][NO_SHIFT]]
    shifts = list(summary["tasks"][tasks[0]])
    with fs.style():
        figure = Figure(
            figsize=(4.6 * len(COMPARED), 0.8 + len(tasks) * (0.6 + 0.5 * len(shifts))),
            layout="constrained",
        )
        axes = figure.subplots(
            len(tasks), len(COMPARED), sharex=True, sharey=True, squeeze=False
        )
        for row, task in zip(axes, tasks, strict=True):
            for ax, name in zip(row, COMPARED, strict=True):
                for arm, color in zip(arms, cycle(_COLORS)):
                    offset = 0.6 * ((arms.index(arm) + 0.5) / len(arms) - 0.5)
                    _marks(ax, summary["tasks"][task], arm, name, color, offset)
                ax.set_yticks(range(len(shifts)), shifts)
                ax.set_ylim(len(shifts) - 0.5, -0.5)
                ax.set_title(task if len(tasks) > 1 else "")
        for ax, name in zip(axes[-1], COMPARED, strict=True):
            ax.set_xlabel(_LABELS[name])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def _marks(
    ax: Axes, shifts: dict[str, Any], arm: str, name: str, color: str, offset: float
) -> None:
    """One arm's means and intervals, a row per shift."""
    label = arm
    for place, arms in enumerate(shifts.values()):
        for own in arms:
            if own["arm"] == arm and name in own["means"]:
                value, y = own["means"][name], place + offset
                if value["low"] is not None:
                    ax.plot([value["low"], value["high"]], [y, y], color=color)
                ax.plot(value["mean"], y, "o", color=color, markersize=4, label=label)
                label = "_"  # the legend names an arm once


def _heatmaps(records: Sequence[dict[str, Any]]) -> Figure:
    """A panel per task, arm and step: average precision by view and score."""
    panels = {}
    for task, arm in dict.fromkeys((r["task"], r["arm"]) for r in records):
        own = [r for r in records if (r["task"], r["arm"]) == (task, arm)]
        for step in sorted({record["step"] for record in own}):
            # All arms of a task start alike: one panel shows it.
            title = f"{task}, {arm}, step {step}" if step else f"{task}, start"
            panels.setdefault(title, [r for r in own if r["step"] == step])
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    views = list(dict.fromkeys(record["view"] for record in records))
    with fs.style():
        figure = Figure(
            figsize=(6.8 * columns, rows * (1.6 + 0.3 * len(views))),
            layout="constrained",
        )
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, (title, own) in zip(axes, panels.items()):
            _heatmap(ax, title, own, views)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
    return figure


def _heatmap(
    ax: Axes, title: str, records: Sequence[dict[str, Any]], views: Sequence[str]
) -> None:
    scores = [r["score"] for r in records if "average_precision" in r["means"]]
    scores = list(dict.fromkeys(scores))
    found = {
        (record["view"], record["score"]): record["means"]["average_precision"]["mean"]
        for record in records
        if "average_precision" in record["means"]
    }
    grid = [[found.get((view, s), float("nan")) for s in scores] for view in views]
    ax.imshow(grid, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            color = "white" if value < 0.6 else "black"
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(scores)), scores, rotation=30, ha="right")
    ax.set_yticks(range(len(views)), views)
    ax.grid(visible=False)
    ax.set_title(f"average precision: {title}")
