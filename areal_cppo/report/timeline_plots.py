"""Plots of who was busy when: generation above training above weight updates."""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from areal_cppo.report import figure_style as fs
from areal_cppo.report.chart import Plot, Readings
from areal_cppo.report.runs import RunContents
from areal_cppo.report.timeline import (
    Interval,
    busy_seconds,
    in_flight,
    intersect,
    mean_in_flight,
    overlap_share,
    union,
)

ZOOM_SECONDS = 30.0
WIDE = (12.0, 3.3)
MOST_SPANS = 400  # more spans of training than this are drawn as shares of time
SHARE_BINS = 240
READ = 120  # moments whose values can be read off
MOST_POINTS = 800  # a curve with more changes than this is averaged in bins
FINEST = 1 / 1500  # share of the window below which a bar could not be seen

Lanes = dict[str, list]  # spans by phase
OTHER_COLORS = (fs.ORANGE, fs.SKY, fs.MUTED)


def timeline_plot(run: RunContents) -> Plot | None:
    """The whole run."""
    end = run.seconds  # as for the summary's overlap share
    if not run.timeline or end <= 0:
        return None
    return _plot(
        run,
        (0.0, end),
        "timeline",
        "Generation and training, whole run",
        "They are asynchronous when both rows are busy at the same moments.",
    )


def timeline_zoom_plot(run: RunContents) -> Plot | None:
    """About 30 seconds from the middle, where the whole run is much longer."""
    end = run.timeline.end
    if not run.timeline or end < 1.5 * ZOOM_SECONDS:
        return None
    begins = [s for s, _, _ in run.timeline.training if s <= end - ZOOM_SECONDS]
    start = min(begins, key=lambda s: abs(s - end / 2), default=end / 2)
    start = max(0.0, min(start, end - ZOOM_SECONDS))
    return _plot(
        run,
        (start, start + ZOOM_SECONDS),
        "timeline_zoom",
        f"Generation and training, {ZOOM_SECONDS:.0f} s from the middle of the run",
        "Each bar is one phase of a training step.",
    )


def _plot(
    run: RunContents, window: Interval, name: str, title: str, words: str
) -> Plot:
    line = run.timeline
    start, end = window
    unit, scale = ("minutes", 60.0) if end - start > 600 else ("seconds", 1.0)
    figure, (upper, middle, lower) = fs.panels(3, WIDE, (3.2, 1, 1))
    _generation(upper, line.generation, window, scale)
    phases = list(dict.fromkeys(phase for _, _, phase in line.training))
    others = cycle(OTHER_COLORS)
    colors = {phase: fs.PHASE_COLORS.get(phase) or next(others) for phase in phases}
    lanes = {p: [span for span in line.training if span[2] == p] for p in phases}
    crowded = len(intersect(line.training, [window])) > MOST_SPANS
    draw = _shares if crowded else _bars
    draw(middle, lanes, window, scale, colors)
    draw(lower, {"": line.weights}, window, scale, {"": fs.INK})
    if crowded:
        words += " The height in the lower rows is the share of time spent so."
    for ax, label in ((middle, "training"), (lower, "weights")):
        ax.set_yticks([0.5], [label])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(0, 1)
        ax.grid(visible=False, axis="y")
    middle.spines["bottom"].set_visible(False)
    middle.tick_params(axis="x", length=0)
    lower.set_xlim(start / scale, end / scale)
    lower.set_xlabel(f"{unit} since training began")
    figure.align_ylabels()
    fs.legend_above(upper, columns=7, of=middle)
    generating, training = (
        busy_seconds(intersect(side, [window])) / (end - start)
        for side in (line.generation, line.training)
    )
    both = overlap_share(line.generation, line.training, window)
    facts = (
        f"Generation busy {generating:.0%} of this time, training {training:.0%}, "
        f"both {both:.0%}."
    )
    return Plot.of(
        figure,
        name,
        title,
        f"{facts} {words}",
        f"Time line from {start:.0f} to {end:.0f} s: generation requests in flight, "
        f"training phases and weight updates. {facts}",
        _readings((upper, middle, lower), lanes, line, window, scale, unit, colors),
        wide=True,
    )


def _readings(panels, lanes: Lanes, line, window, scale, unit, colors) -> Readings:
    """Requests in flight and the share of time of each phase, moment by moment."""
    edges = np.linspace(*window, READ + 1)
    centres = (edges[1:] + edges[:-1]) / 2 / scale
    shares = {**lanes, "weights": line.weights}
    return Readings(
        panels,
        [round(float(centre), 3) for centre in centres],
        [f"At {centre:.1f} {unit}" for centre in centres],
        [
            (
                "requests in flight",
                fs.BLUE,
                [round(float(n), 1) for n in mean_in_flight(line.generation, edges)],
                "",
            ),
            *(
                (
                    name,
                    colors.get(name, fs.INK),
                    mean_in_flight(union(spans), edges).tolist(),
                    "share",
                )
                for name, spans in shares.items()
            ),
        ],
    )


def _generation(
    ax: Axes, spans: list[Interval], window: Interval, scale: float
) -> None:
    start, end = window
    times, counts = in_flight(spans)
    inside = (times > start) & (times < end)
    if inside.sum() > MOST_POINTS:
        edges = np.linspace(start, end, MOST_POINTS // 2 + 1)
        counts = mean_in_flight(spans, edges)
        times, counts = edges, np.append(counts, counts[-1])
    elif len(times):
        before = np.searchsorted(times, start, side="right") - 1
        first = counts[before] if before >= 0 else 0
        last = counts[inside][-1] if inside.any() else first
        times = np.concatenate([[start], times[inside], [end]])
        counts = np.concatenate([[first], counts[inside], [last]])
    times = times / scale
    ax.fill_between(times, counts, step="post", color=fs.SKY, alpha=0.5, linewidth=0)
    ax.step(times, counts, where="post", color=fs.BLUE, linewidth=0.8)
    ax.set_ylim(0, (max(counts) if len(counts) else 0) * 1.08 or 1)
    ax.yaxis.set_major_locator(fs.ticks(5, integer=True))
    ax.set_ylabel("generation:\nrequests in flight")


def _bars(
    ax: Axes, lanes: Lanes, window: Interval, scale: float, colors: dict[str, str]
) -> None:
    """A bar for each span in the window, at least wide enough to be seen."""
    finest = FINEST * (window[1] - window[0])
    for name, spans in lanes.items():
        shown = intersect(spans, [window])
        shown = union((s, max(e, s + finest)) for s, e in shown)
        ax.broken_barh(
            [(s / scale, (e - s) / scale) for s, e in shown],
            (0.12, 0.76),
            facecolors=colors[name],
            linewidth=0,
            label=name,
        )


def _shares(
    ax: Axes, lanes: Lanes, window: Interval, scale: float, colors: dict[str, str]
) -> None:
    """The share of each moment's time, stacked: for more spans than can be seen."""
    edges = np.linspace(*window, SHARE_BINS + 1)
    floor = np.zeros(SHARE_BINS)
    for name, spans in lanes.items():
        top = floor + mean_in_flight(union(spans), edges)
        ax.stairs(top, edges / scale, baseline=floor, fill=True, color=colors[name])
        ax.patches[-1].set(linewidth=0, label=name)
        floor = top
