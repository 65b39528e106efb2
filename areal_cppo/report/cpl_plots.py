"""The report's plots of CPL by step. Each returns `None` without its data."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from areal_cppo.report import figure_style as fs
from areal_cppo.report.figure_style import Plot
from areal_cppo.report.runs import Run, is_number

QUANTILES = ("cpl_gain_p10", "cpl_gain_p50", "cpl_gain_p90")


def cpl_plot(run: Run) -> Plot | None:
    """CPL above the divergences it compares."""
    loss = run.series("cpl_loss")
    parts = (
        (run.series("cpl_positive_divergence"), fs.GREEN, "positive divergence"),
        (run.series("cpl_negative_divergence"), fs.VERMILLION, "negative divergence"),
        (run.series("cpl_margin"), fs.PURPLE, "margin"),
    )
    if not loss[0]:
        return None
    figure, (upper, lower) = fs.panels(2, fs.HALF, (1, 1.5))
    fs.curve(upper, *loss, fs.BLUE, "CPL")
    upper.axhline(np.log(2), color=fs.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    upper.annotate(
        "ln 2: no contrast",
        (1, np.log(2)),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=fs.MUTED,
        fontsize=8,
    )
    upper.set_ylim(0, max(0.8, *loss[1]) * 1.1)
    upper.set_ylabel("CPL (nats)")
    for series, color, label in parts:
        if series[0]:
            fs.curve(lower, *series, color, label)
    lower.axhline(0, color=fs.MUTED, linewidth=0.8)
    lower.set_ylabel("divergence (nats)")
    if lower.get_legend_handles_labels()[0]:
        fs.legend_above(lower)
    fs.step_axis(lower)
    courses = [fs.course("CPL", *loss)]
    courses += [fs.course(label, *series) for series, _, label in parts if series[0]]
    return Plot(
        "cpl",
        "Contrastive Perception Loss",
        "At perception tokens, how far the prediction moves from the anchor's under "
        "the positive and the negative view. The margin is negative minus positive."
        f"{fs.smoothing_note(loss[0])}",
        f"Two line plots by training step: {'; '.join(courses)}.",
        fs.svg_text(figure),
    )


def gain_plot(run: Run) -> Plot | None:
    """Entropies given anchor and negative view, above the spread of entropy gain."""
    entropies = (
        (run.series("cpl_anchor_entropy"), fs.BLUE, "anchor"),
        (run.series("cpl_negative_entropy"), fs.VERMILLION, "negative view"),
    )
    band = _quantiles(run)
    if not (band[0] or any(series[0] for series, _, _ in entropies)):
        return None
    figure, (upper, lower) = fs.panels(2, fs.HALF)
    for series, color, label in entropies:
        if series[0]:
            fs.curve(upper, *series, color, label)
            fs.legend_above(upper)
    upper.set_ylabel("entropy (nats)")
    upper.set_ylim(bottom=0)
    steps, (low, middle, high) = band
    if steps:
        lower.fill_between(
            steps, low, high, color=fs.SKY, alpha=0.4, linewidth=0, label="10 to 90 %"
        )
        fs.curve(lower, steps, middle, fs.BLUE, "median")
        fs.legend_above(lower)
    _share_axis(lower, high)
    lower.set_ylabel("entropy gain")
    fs.step_axis(lower)
    courses = [
        fs.course(f"entropy given the {label}", *series)
        for series, _, label in entropies
    ]
    courses.append(fs.course("median entropy gain", steps, middle))
    return Plot(
        "gain",
        "Entropy gain",
        "Of all gated tokens: mean entropy given each image, and how far it rises, as "
        "a share of the negative view's. Perception tokens are chosen from the top; a "
        "median far above 0 means that entropy rises everywhere."
        f"{fs.smoothing_note(steps or entropies[0][0][0])}",
        f"Two line plots by training step: {'; '.join(courses)}.",
        fs.svg_text(figure),
    )


def selection_plot(run: Run) -> Plot | None:
    """How many responses count in CPL, and how many perception tokens each has."""
    gated, count = (
        run.series("cpl_gated_share"),
        run.series("cpl_selected_per_response"),
    )
    if not (gated[0] or count[0]):
        return None
    figure, (upper, lower) = fs.panels(2, fs.HALF)
    _panel(upper, gated, fs.GREEN, "gated share\nof responses")
    _share_axis(upper, gated[1])
    _panel(lower, count, fs.BLUE, "perception tokens\nper response")
    fs.step_axis(lower)
    return Plot(
        "selection",
        "What counts in CPL",
        "Responses that the gate lets into CPL, and the tokens that entropy gain "
        f"selects in each of them.{fs.smoothing_note(count[0] or gated[0])}",
        "Two line plots by training step: "
        f"{fs.course('gated share of responses', *gated)}; "
        f"{fs.course('perception tokens per response', *count)}.",
        fs.svg_text(figure),
    )


def shortcut_plot(run: Run) -> Plot | None:
    """The two metrics in which the shortcut shows when both rise."""
    share, divergence = (
        run.series("cpl_selected_share"),
        run.series("cpl_unselected_divergence"),
    )
    if not (share[0] or divergence[0]):
        return None
    figure, (upper, lower) = fs.panels(2, fs.HALF)
    _panel(upper, share, fs.BLUE, "perception token\nshare")
    _share_axis(upper, share[1])
    _panel(lower, divergence, fs.VERMILLION, "divergence of\nother tokens (nats)")
    fs.step_axis(lower)
    return Plot(
        "shortcut",
        "Watch for the shortcut",
        "The share of gated tokens that is selected, and how far the tokens that are "
        "not selected move under the negative view. If both rise, the policy learns to "
        "change every token once it recognises the perturbation."
        f"{fs.smoothing_note(share[0] or divergence[0])}",
        "Two line plots by training step: "
        f"{fs.course('perception token share', *share)}; "
        f"{fs.course('divergence of tokens not selected', *divergence)}.",
        fs.svg_text(figure),
    )


def _quantiles(run: Run) -> tuple[list[int], tuple[list[float], ...]]:
    """The steps that have all quantiles of the gain, and the quantiles."""
    rows = [
        (record["step"], *(record[key] for key in QUANTILES))
        for record in run.metrics
        if all(is_number(record.get(key)) for key in QUANTILES)
    ]
    steps, *columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return list(steps), tuple(list(column) for column in columns)


def _panel(
    ax: Axes, series: tuple[list[int], list[float]], color: str, label: str
) -> None:
    """A metric that is at least 0, alone in its panel."""
    if series[0]:
        fs.curve(ax, *series, color, label)
        ax.set_ylim(0, max(series[1]) * 1.15 or 1)
    ax.yaxis.set_major_locator(fs.ticks(5))
    ax.set_ylabel(label)


def _share_axis(ax: Axes, values: list[float]) -> None:
    """A vertical axis of shares from 0, in per cent."""
    ax.set_ylim(0, (max(values, default=0) * 1.15) or 1)
    ax.yaxis.set_major_locator(fs.ticks(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
