"""Pictures of a study: learning curves, differences, selection, detection.

Dots are means over seeds, with their 95 % intervals; small faint dots are seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from areal_cppo.report import figure_style as fs
from areal_cppo.studies.spec import NO_SHIFT
from areal_cppo.studies.summary import COMPARED, means

Line = dict[str, Any]
Style = dict[str, str]

_COLORS = (fs.BLUE, fs.VERMILLION, fs.GREEN, fs.PURPLE, fs.ORANGE, fs.SKY, fs.MUTED)
_MARKS = (("o", "-"), ("s", "--"), ("^", ":"))  # of the first arms, the next, the rest
_MOST_BANDS = 4  # more arms' intervals over each other hide the curves
_SEED_STEP = 0.014  # of the horizontal axis, from the seeds of an arm to the next one's
_DPI = 150
_LABELS = {
    "accuracy": "greedy accuracy",
    "accuracy_sampled": "sampled accuracy",
    "selection_precision": "precision of the selection",
    "selection_recall": "recall of the selection",
    "gain_average_precision": "average precision of the gain",
}
_SELECTION = ("selection_precision", "selection_recall", "gain_average_precision")
_DOTS = "small dots: seeds"


def draw_all(
    folder: Path,
    summary: dict[str, Any],
    lines: Sequence[Line],
    detection: Sequence[dict[str, Any]],
) -> list[Path]:
    """Write the pictures that there is anything for; the files."""
    pictures = {}
    table = pd.DataFrame(lines)
    unshifted = table[table["shift"] == NO_SHIFT] if len(table) else table
    if len(unshifted) and unshifted["step"].nunique() > 1:
        pictures["curves"] = _by_step(unshifted, COMPARED)
        pictures["selection"] = _by_step(unshifted, _SELECTION)
    if any(_differences(summary)):
        pictures["differences"] = _forest(summary, table)
    if any(sum(map(bool, shifts.values())) > 1 for shifts in summary["tasks"].values()):
        pictures["shifts"] = _shifts(summary, table)
    if detection:
        pictures["detection"] = _heatmaps(detection)
    files = []
    for name, draw in pictures.items():
        files.append(folder / f"{name}.png")
        draw.savefig(files[-1], dpi=_DPI)
    return files


def _styles(arms: Sequence[str]) -> dict[str, Style]:
    """How each arm is drawn: no two of up to 21 alike."""
    rounds = [(marker, line, c) for marker, line in _MARKS for c in _COLORS]
    keys = "marker", "linestyle", "color"
    return {
        arm: dict(zip(keys, rounds[at % len(rounds)])) for at, arm in enumerate(arms)
    }


def _finish(figure: Figure, styles: dict[str, Style], title: str) -> Figure:
    """A title, and the legend beside the panels, where it hides nothing."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles = [Line2D([], [], **style, markersize=4) for style in styles.values()]
    figure.legend(handles, list(styles), loc="outside right upper")
    return figure


def _seeds(lines: pd.DataFrame, name: str, **of: str) -> pd.Series:
    """A measure at the last step, by seed; empty for a mean over shifts."""
    if not len(lines) or name not in lines:
        return pd.Series(dtype=float)
    own = lines[lines["step"] == lines["step"].max()]
    for key, value in of.items():
        own = own[own[key] == value]
    return own.set_index("seed")[name].dropna()


def _scatter(ax: Axes, xs, ys, color: str) -> None:
    ax.scatter(xs, ys, s=11, color=color, alpha=0.5, linewidth=0)


def _by_step(lines: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per task and measure: means over seeds, with their intervals."""
    tasks, styles = lines["task"].unique(), _styles(lines["arm"].unique())
    bands = len(styles) <= _MOST_BANDS
    with fs.style():
        width, height = 4.2 * len(names) + 2, max(3.4, 0.2 * len(styles) + 1)
        figure = Figure(figsize=(width, height * len(tasks)), layout="constrained")
        axes = figure.subplots(len(tasks), len(names), sharex=True, squeeze=False)
        for row, task in zip(axes, tasks, strict=True):
            own = lines[lines["task"] == task]
            for ax, name in zip(row, names, strict=True):
                _curves(ax, own, styles, name, bands)
                ax.set_title(task if len(tasks) > 1 else "")
                ax.set_ylabel(f"{_LABELS[name]} (share)")
                ax.set_ylim(0, 1)
                fs.step_axis(ax)
                last = float(lines["step"].max())
                places = ax.xaxis.get_major_locator().tick_values(0, last)
                ax.set_xticks([place for place in places if 0 <= place <= last])
        spread = "bands: 95 % intervals; " if bands else ""
        title = f"Means over seeds by training step; {spread}{_DOTS} at the last step"
        return _finish(figure, styles, title)


def _curves(
    ax: Axes, lines: pd.DataFrame, styles: dict[str, Style], name: str, bands: bool
) -> None:
    """Means by step, and behind the last step a column of seeds for each arm."""
    last, step = lines["step"].max(), _SEED_STEP * float(lines["step"].max() or 1)
    for at, (arm, style) in enumerate(styles.items()):
        by_step = {
            place: means(there, [name])
            for place, there in lines[lines["arm"] == arm].groupby("step")
        }
        found = {place: value[name] for place, value in by_step.items() if value}
        steps, values = list(found), found.values()
        ax.plot(steps, [value["mean"] for value in values], **style, markersize=3)
        if bands:
            ends = [
                [x["mean"] if x[end] is None else x[end] for x in values]
                for end in ("low", "high")
            ]
            ax.fill_between(steps, *ends, color=style["color"], alpha=0.15, linewidth=0)
        seeds = _seeds(lines, name, arm=arm)
        _scatter(ax, [last + (at + 2) * step] * len(seeds), seeds, style["color"])


def _differences(summary: dict[str, Any]) -> Iterator[tuple[str, str, str, dict]]:
    """Task, reference, arm, and the difference in greedy accuracy."""
    for task, shifts in summary["tasks"].items():
        for reference in summary["references"]:
            for arm in shifts[NO_SHIFT]:
                if reference in arm["differences"]:
                    found = arm["differences"][reference]["accuracy"]
                    yield task, reference, arm["arm"], found


def _forest(summary: dict[str, Any], lines: pd.DataFrame) -> Figure:
    """A panel per reference: paired differences with their intervals."""
    found = list(_differences(summary))
    references = list(dict.fromkeys(reference for _, reference, _, _ in found))
    tasks = list(summary["tasks"])
    rows = max(sum(f[1] == reference for f in found) for reference in references)
    with fs.style():
        figure = Figure(
            figsize=(5.0 * len(references) + 1, 1.6 + 0.4 * rows), layout="constrained"
        )
        axes = figure.subplots(1, len(references), squeeze=False)[0]
        for ax, reference in zip(axes, references, strict=True):
            own = [f for f in found if f[1] == reference]
            for place, (task, _, arm, value) in enumerate(own):
                color = _COLORS[tasks.index(task) % len(_COLORS)]
                if value["low"] is not None:
                    ends = [value["low"], value["high"]]
                    ax.plot(ends, [place, place], color=color)
                ax.plot(value["mean"], place, "o", color=color)
                one, other = (
                    _seeds(lines, "accuracy", task=task, shift=NO_SHIFT, arm=each)
                    for each in (arm, reference)
                )
                pairs = (one - other).dropna()
                _scatter(ax, pairs, [place + 0.25] * len(pairs), color)
            ax.axvline(0, color=fs.MUTED, linewidth=0.8, zorder=0)
            several = len(tasks) > 1
            names = [f"{arm} ({task})" if several else arm for task, _, arm, _ in own]
            ax.set_yticks(range(len(own)), names)
            ax.set_ylim(len(own) - 0.5, -0.5)
            ax.set_xlabel(f"greedy accuracy less that of {reference} (share)")
        title = f"Differences, seed by seed: mean, 95 % interval; {_DOTS}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _shifts(summary: dict[str, Any], lines: pd.DataFrame) -> Figure:
    """A panel per task and measure: accuracy by held-out shift, a row per arm."""
    tasks = summary["tasks"]
    shifts = list(dict.fromkeys(shift for own in tasks.values() for shift in own))
    found = (
        arm["arm"] for own in tasks.values() for arms in own.values() for arm in arms
    )
    styles = _styles(list(dict.fromkeys(found)))
    row = max(0.5, 0.15 * len(styles) + 0.2)  # inches
    with fs.style():
        figure = Figure(
            figsize=(
                (4.2 if len(tasks) == 1 else 3.0) * len(tasks) * len(COMPARED) + 2,
                1.6 + row * len(shifts),
            ),
            layout="constrained",
        )
        columns = len(tasks) * len(COMPARED)
        axes = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)
        axes = axes.reshape(len(tasks), len(COMPARED))
        for panels, (task, own) in zip(axes, tasks.items(), strict=True):
            for ax, name in zip(panels, COMPARED, strict=True):
                for place, shift in enumerate(shifts):
                    if place % 2:
                        band = place - 0.5, place + 0.5
                        ax.axhspan(*band, color=fs.RULE, alpha=0.35, linewidth=0)
                    for arm in own.get(shift, ()):
                        at = list(styles).index(arm["arm"])
                        y = place + 0.8 * ((at + 0.5) / len(styles) - 0.5)
                        of = {"task": task, "shift": shift, "arm": arm["arm"]}
                        seeds = _seeds(lines, name, **of)
                        style = styles[arm["arm"]]
                        _scatter(ax, seeds, [y] * len(seeds), style["color"])
                        _mark(ax, arm["means"].get(name), y, style)
                ax.set_yticks(range(len(shifts)), shifts)
                ax.set_ylim(len(shifts) - 0.5, -0.5)
                ax.set_xlim(0, 1)
                ax.grid(visible=False, axis="y")
                ax.set_title(task if len(tasks) > 1 else "")
                ax.set_xlabel(f"{_LABELS[name]} (share)")
        axes[0, 0].set_ylabel("shift of the held-out problems")
        title = f"Accuracy by shift: mean over seeds, 95 % interval; {_DOTS}"
        return _finish(figure, styles, title)


def _mark(ax: Axes, value: dict[str, Any] | None, y: float, style: Style) -> None:
    """One arm's mean with its interval."""
    if value is None:
        return
    if value["low"] is not None:
        ends = [value["low"], value["high"]]
        ax.plot(ends, [y, y], color=style["color"], linewidth=0.9)
    ax.plot(value["mean"], y, style["marker"], color=style["color"], markersize=4)


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
            color = "white" if value < 0.6 else "black"  # NaN is no colour at all
            said = "-" if value != value else f"{value:.2f}"
            ax.text(x, y, said, ha="center", va="center", color=color)
    ax.set_xticks(range(len(scores)), scores, rotation=30, ha="right")
    ax.set_yticks(range(len(views)), views)
    ax.set_xlabel("score of a token")
    ax.set_ylabel("negative view")
    ax.grid(visible=False)
    ax.set_title(f"average precision: {title}")
