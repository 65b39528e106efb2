"""The report's plots by step, CPL aside. Each returns `None` without its data."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from areal_cppo.report import figure_style as fs
from areal_cppo.report.chart import Plot, Readings, by_step
from areal_cppo.report.cpl_plots import (
    cpl_plot,
    gain_plot,
    selection_plot,
    shortcut_plot,
)
from areal_cppo.report.figure_style import Curve
from areal_cppo.report.heldout import HeldOut, heldout_points
from areal_cppo.report.runs import RunContents, is_number
from areal_cppo.report.timeline_plots import WIDE, timeline_plot, timeline_zoom_plot
from areal_cppo.report.trace import PHASES

FEWEST_SLOTS = 12  # room on the axis, so that two bars are not two walls
PARTS = (fs.ORANGE, fs.PURPLE, fs.SKY)  # of a reward of one's own, the first three
SAME = 0.02  # off a line by less, two curves are one to the eye
MINUS = "\u2212"
MOST_BARS = 120  # more steps than this are averaged in blocks


def all_plots(run: RunContents) -> list[Plot]:
    """Every plot that the run has data for, in the report's order."""
    makers: tuple[Callable[[RunContents], Plot | None], ...] = (
        learning_plot,
        cpl_plot,
        gain_plot,
        selection_plot,
        shortcut_plot,
        staleness_plot,
        timeline_plot,
        timeline_zoom_plot,
        step_time_plot,
    )
    with fs.style():
        plots = [maker(run) for maker in makers]
    return [plot for plot in plots if plot is not None]


def learning_plot(run: RunContents) -> Plot | None:
    """Training accuracy by step, held-out accuracy with intervals, and the reward where
    it has a course of its own."""
    accuracy = Curve(
        "training accuracy", fs.BLUE, *run.series("accuracy"), unit="share"
    )
    points = heldout_points(run)
    heldout = Curve(
        f"{run.problems.lower()} accuracy",
        fs.VERMILLION,
        [point.step for point in points],
        [point.accuracy for point in points],
        unit="share",
    )
    parts = [
        Curve(name.removeprefix("reward/"), color, *run.series(name))
        for name, color in zip(run.own_parts, PARTS)
    ]
    reward = Curve("reward", fs.GREEN, *run.series("reward"))
    line = None if parts else line_of(run, "accuracy", "reward")
    sampled = [curve for curve in (accuracy, *parts) if curve]
    sampled += [reward] if reward and line is None else []
    curves = [*sampled, heldout] if points else sampled
    if not curves:
        return None
    figure, (ax,) = fs.panels(1, fs.HALF)
    for curve in sampled:
        curve.draw(ax)
    if points:
        style = {"color": heldout.color, "label": heldout.label, "fmt": "D"}
        draw_accuracies(ax, heldout.steps, points, **style)
    if all(0 <= value <= 1 for curve in curves for value in curve.values):
        ax.set_ylim(0, 1)
    fs.step_axis(ax)
    rewarded = reward in sampled or parts
    ax.set_ylabel("reward; share correct" if rewarded else "share correct")
    fs.legend_above(ax)
    greedy = f" {run.problems} accuracy is of greedy ones, with 95 % Wilson intervals."
    greedy = greedy if points else f" {run.problems} accuracy was not measured."
    same = f" The reward is not drawn: it is {line} throughout." if line else ""
    return Plot.of(
        figure,
        "learning",
        "Reward and accuracy" if rewarded else "Accuracy",
        f"Training accuracy is of sampled responses.{greedy}{same}"
        f"{(accuracy or reward).smoothed}",
        f"Line plot by training step: {'; '.join(curve.words for curve in curves)}.",
        by_step([ax], *curves),
    )


def line_of(run: RunContents, base: str, metric: str) -> str | None:
    """The linear function of one metric that another is in all steps, in words.

    `None` if it is none: some step is off by more than a fiftieth of what the metric
    ranges over, or there are too few steps to tell.
    """
    pairs = [
        (record[base], record[metric])
        for record in run.metrics
        if is_number(record.get(base)) and is_number(record.get(metric))
    ]
    if len({x for x, _ in pairs}) < 3:
        return None
    x, y = np.array(pairs, dtype=float).T
    slope, start = np.polyfit(x, y, 1)
    if np.abs(slope * x + start - y).max() > SAME * max(np.ptp(y), abs(slope)):
        return None
    rest = f" {'+' if start > 0 else MINUS} {abs(start):.2f}" if round(start, 2) else ""
    return f"{slope:.2f} × {base}{rest}"


def draw_accuracies(ax: Axes, xs: Sequence[float], points: list[HeldOut], **style):
    """Accuracies with their intervals, where these are known."""
    spreads = [p.interval or (p.accuracy, p.accuracy) for p in points]
    pairs = list(zip(points, spreads, strict=True))
    ax.errorbar(
        xs,
        [point.accuracy for point in points],
        yerr=[
            [max(0.0, point.accuracy - low) for point, (low, _) in pairs],
            [max(0.0, high - point.accuracy) for point, (_, high) in pairs],
        ],
        markersize=4.5,
        capsize=3,
        elinewidth=1.4,
        clip_on=False,
        zorder=5,
        **style,
    )


def staleness_plot(run: RunContents) -> Plot | None:
    """Staleness of the tokens trained on: over the run, and by step."""
    totals, total = run.staleness, sum(run.staleness.values())
    mean = Curve("mean", fs.BLUE, *run.series("staleness_mean"))
    largest = Curve("largest", fs.ORANGE, *run.series("staleness_max"))
    if not (total or mean):
        return None
    figure = fs.Drawing(figsize=fs.HALF)
    upper, lower = figure.subplots(2, 1)
    shares = {age: tokens / total for age, tokens in totals.items()} if total else {}
    bars = upper.bar(list(shares), list(shares.values()), color=fs.BLUE, width=0.7)
    upper.bar_label(
        bars, [f"{share:.0%}" if share >= 0.005 else "<1%" for share in shares.values()]
    )
    upper.grid(visible=False)
    upper.margins(y=0.18)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.xaxis.set_major_locator(fs.ticks(10, integer=True))
    upper.set_xlabel("staleness (policy versions)")
    upper.set_ylabel("response tokens")
    if largest:
        lower.plot(
            largest.steps,
            largest.values,
            color=largest.color,
            label=largest.label,
            linewidth=1,
            drawstyle="steps-mid",
        )
    if mean:
        mean.draw(lower)
    if mean or largest:
        lower.set_ylim(0, max([*mean.values, *largest.values]) * 1.1 or 1)
        fs.legend_above(lower)
    lower.set_ylabel("staleness\n(policy versions)")
    fs.step_axis(lower)
    spread = ", ".join(f"{share:.1%} at {age}" for age, share in shares.items())
    return Plot.of(
        figure,
        "staleness",
        "Staleness",
        "How many policy versions ago the trained-on tokens were sampled: the whole "
        f"run, then step by step.{mean.smoothed}",
        f"Histogram of response tokens by staleness: {spread or 'not recorded'}. "
        f"Line plot: {replace(mean, label='mean staleness').words}.",
        by_step([lower], mean, largest) if mean or largest else None,
    )


def step_time_plot(run: RunContents) -> Plot | None:
    """What a step's wall time goes to, stacked."""
    known = [phase for phase in PHASES if run.series(phase.metric)[0]]
    if not known:
        return None
    steps = np.array([record["step"] for record in run.metrics], dtype=float)
    table = np.array(
        [
            [r[key] if is_number(r.get(key)) else 0.0 for r in run.metrics]
            for key in (phase.metric for phase in known)
        ]
    )
    block = -(-len(steps) // MOST_BARS)
    blocks = [slice(at, at + block) for at in range(0, len(steps), block)]
    centres = [steps[part].mean() for part in blocks]
    means = np.array([table[:, part].mean(axis=1) for part in blocks]).T
    figure, (ax,) = fs.panels(1, WIDE)
    floor = np.zeros(len(centres))
    for row, phase in zip(means, known, strict=True):
        style = {"color": fs.PHASE_COLORS[phase.name], "label": phase.name}
        ax.bar(centres, row, bottom=floor, width=0.9 * block, **style)
        floor += row
    ax.grid(visible=False, axis="x")
    ax.set_ylabel("seconds per step")
    ax.set_xlim(steps[0] - 1, max(steps[-1] + 1, steps[0] + FEWEST_SLOTS))
    fs.step_axis(ax)
    fs.legend_above(ax)
    parts = ", ".join(
        f"{phase.name} {seconds:.2f} s"
        for seconds, phase in zip(table.mean(axis=1), known, strict=True)
    )
    averaged = f" Each bar is the mean of {block} steps." if block > 1 else ""
    named = [f"{steps[part][0]:.0f}" for part in blocks]
    if block > 1:
        ends = [f"{steps[part][-1]:.0f}" for part in blocks]
        named = [f"{first} to {last}" for first, last in zip(named, ends, strict=True)]
    read = Readings(
        [ax],
        [float(centre) for centre in centres],
        [f"Step{'s' if block > 1 else ''} {name}" for name in named],
        [
            (phase.name, fs.PHASE_COLORS[phase.name], row.tolist(), "s")
            for row, phase in zip(means, known, strict=True)
        ],
    )
    return Plot.of(
        figure,
        "step_time",
        "Where a step's time goes",
        f"Mean per step: {parts}.{averaged}",
        f"Stacked bars of wall time by training step. Mean per step: {parts}.",
        read,
        wide=True,
    )
