"""Curves of several runs over each other: by step, by response and by hour."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from areal_cppo.report import figure_style as fs
from areal_cppo.report.chart import NARROW, Plot
from areal_cppo.report.figure_style import Curve
from areal_cppo.report.heldout import heldout_points
from areal_cppo.report.plots import draw_accuracies
from areal_cppo.report.runs import RunContents, is_number

SIZE, ROW = (11.4, 3.3), 0.25  # inches; more for each row of the legend
STACKED = (NARROW, 7.2)  # for narrow screens, where panels stand below each other
# What is drawn of what two runs have, in this order; the last with all of its parts.
SHOWN = (
    *("reward", "accuracy", "validation_average_at_k", "validation_reward"),
    *("response_tokens", "policy_entropy", "cpl_loss", "cpl_selected_share"),
    *("cpl_selected_gain", "vppo_kept_share", "papo_divergence", "grad_norm"),
    *("staleness_mean", "tokens_per_second", "reward/"),
)
_COLORS = (fs.BLUE, fs.VERMILLION, fs.GREEN, fs.PURPLE, fs.ORANGE, fs.SKY)
_LINES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
_MARKERS = "osD^vP"
_LONGEST = 34  # letters of a name in a legend, of which three stand beside each other

Place = Callable[[dict[str, Any]], float | None]
Draw = Callable[[Axes, Place], None]
Runs = Sequence[tuple[str, RunContents]]


def _key(name: str, unit: float = 1.0) -> Place:
    return lambda record: record[name] / unit if is_number(record.get(name)) else None


_AXES: tuple[tuple[str, Place], ...] = (
    ("training step", _key("step")),
    ("responses trained on", _key("samples")),
    ("hours of training", _key("seconds", 3600)),
)


def comparison_plots(runs: Runs, titles: dict[str, dict[str, str]]) -> list[Plot]:
    """Held-out accuracy and metrics, each if at least two of the runs have it.

    Parameters
    ----------
    runs
        With the label of each.
    titles
        Title and unit of each metric, by name.
    """
    names = [name for name in SHOWN[:-1] if name in titles]
    names += [name for name in titles if name.startswith(SHOWN[-1])]
    with fs.style():
        plots = [_heldout_plot(runs)]
        plots += [_metric_plot(runs, name, titles[name]) for name in names]
    return [plot for plot in plots if plot is not None]


def _metric_plot(runs: Runs, name: str, meaning: dict[str, str]) -> Plot | None:
    having = [at for at, (_, run) in enumerate(runs) if run.series(name)[0]]
    if len(having) < 2:
        return None
    unit = meaning["unit"]

    def draw(ax: Axes, place: Place) -> None:
        for at in having:
            label, run = runs[at]
            known = [(place(record), record.get(name)) for record in run.metrics]
            known = [(x, y) for x, y in known if x is not None and is_number(y)]
            xs, ys = [x for x, _ in known], [y for _, y in known]
            curve = Curve(_short(label), _color(at), xs, ys, _LINES[at % len(_LINES)])
            if curve:
                curve.draw(ax)

    curves = [Curve(runs[at][0], "", *runs[at][1].series(name)) for at in having]
    smooth = len(max(curves, key=lambda curve: len(curve.steps)).smoothed) > 0
    words = "; ".join(curve.words for curve in curves)
    faint = "Faint: each step; bold: trailing mean." if smooth else ""
    help = f"{meaning.get('help', '')} {faint}".strip()
    label = f"{meaning['title']}{unit and f' ({unit})'}"
    return _plot(draw, label, name, meaning["title"], help, words)


def _heldout_plot(runs: Runs) -> Plot | None:
    points = [heldout_points(run) for _, run in runs]
    having = [at for at, found in enumerate(points) if found]
    if len(having) < 2:
        return None

    def draw(ax: Axes, place: Place) -> None:
        for at in having:
            label, run = runs[at]
            places = {0: 0.0} | {
                record["step"]: place(record) for record in run.metrics
            }
            if place is _AXES[0][1]:  # may be evaluated before the step's metrics
                places |= {point.step: point.step for point in points[at]}
            known = [p for p in points[at] if places.get(p.step) is not None]
            xs = [places[point.step] for point in known]
            style = {"color": _color(at), "label": _short(label)}
            style |= {"marker": _MARKERS[at % len(_MARKERS)]}
            line = _LINES[at % len(_LINES)]
            if known:
                draw_accuracies(ax, xs, known, **style, linestyle=line, linewidth=1)
        ax.set_ylim(0, 1)

    words = "; ".join(
        f"{runs[at][0]}: {', '.join(point.words for point in points[at])}"
        for at in having
    )
    help = "Of greedy responses to problems not trained on, with 95 % intervals."
    return _plot(draw, "share right", "heldout", "Held-out accuracy", help, words)


def _plot(draw: Draw, label: str, name: str, title: str, help: str, words: str) -> Plot:
    return Plot.of(
        _figure(draw, label, stacked=False),
        name.replace("/", "_"),
        title,
        help,
        f"Line plots by step, by response and by hour: {words}.",
        wide=True,
        narrow=_figure(draw, label, stacked=True),
    )


def _figure(draw: Draw, label: str, stacked: bool) -> Figure:
    """A panel for each horizontal axis; they share the vertical one."""
    figure = Figure(layout="constrained")
    rows, columns = (len(_AXES), 1) if stacked else (1, len(_AXES))
    panels = figure.subplots(rows, columns, sharey=True)
    for ax, (words, place) in zip(panels, _AXES, strict=True):
        draw(ax, place)
        ax.set_xlabel(words)
        ax.xaxis.set_major_locator(fs.ticks(5))
    panels[0].set_ylabel(label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, **fs.LEGEND)
    width, height = STACKED if stacked else SIZE
    figure.set_size_inches(width, height + ROW * -(-len(labels) // columns))
    return figure


def _color(at: int) -> str:
    return _COLORS[at % len(_COLORS)]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
