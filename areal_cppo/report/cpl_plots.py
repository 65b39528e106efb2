"""The report's plots of CPL by step. Each returns `None` without its data."""

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from areal_cppo.report import figure_style as fs
from areal_cppo.report.chart import Plot, by_step
from areal_cppo.report.figure_style import Curve
from areal_cppo.report.runs import RunContents, is_number

QUANTILES = ("cpl_gain_p10", "cpl_gain_p50", "cpl_gain_p90")


def cpl_plot(run: RunContents) -> Plot | None:
    """CPL above the divergences it compares."""
    loss = Curve("CPL", fs.BLUE, *run.series("cpl_loss"), unit="nats")
    if not loss:
        return None
    parts = [
        Curve(label, color, *run.series(key), unit="nats")
        for key, color, label in (
            ("cpl_positive_divergence", fs.GREEN, "positive divergence"),
            ("cpl_negative_divergence", fs.VERMILLION, "negative divergence"),
            ("cpl_margin", fs.PURPLE, "margin"),
        )
    ]
    parts = [part for part in parts if part]
    figure, (upper, lower) = fs.panels(2, fs.HALF, (1, 1.5))
    loss.draw(upper)
    none = {"label": "no contrast (ln 2)", "linestyle": (0, (4, 3))}
    upper.axhline(np.log(2), color=fs.MUTED, linewidth=1, **none)
    fs.legend_above(upper)
    upper.set_ylim(0, max(0.8, *loss.values) * 1.1)
    upper.set_ylabel("CPL (nats)")
    for part in parts:
        part.draw(lower)
    lower.axhline(0, color=fs.MUTED, linewidth=0.8)
    lower.set_ylabel("divergence (nats)")
    if parts:
        fs.legend_above(lower)
    fs.step_axis(lower)
    return Plot.of(
        figure,
        "cpl",
        "Contrastive Perception Loss",
        "At perception tokens, how far the prediction moves from the anchor's under "
        "the positive and the negative view. The margin is negative minus positive."
        f"{loss.smoothed}",
        _alt(loss, *parts),
        by_step((upper, lower), loss, *parts),
    )


def gain_plot(run: RunContents) -> Plot | None:
    """Entropies given anchor and negative view, above the spread of entropy gain."""
    entropies = [
        Curve(label, color, *run.series(key), unit="nats")
        for key, color, label in (
            ("cpl_anchor_entropy", fs.BLUE, "anchor"),
            ("cpl_negative_entropy", fs.VERMILLION, "negative view"),
        )
    ]
    steps, (low, middle, high) = _quantiles(run)
    median = Curve("median", fs.BLUE, steps, middle)
    if not (median or any(entropies)):
        return None
    figure, (upper, lower) = fs.panels(2, fs.HALF)
    for entropy in filter(None, entropies):
        entropy.draw(upper)
        fs.legend_above(upper)
    upper.set_ylabel("entropy (nats)")
    upper.set_ylim(bottom=0)
    if median:
        lower.fill_between(
            steps, low, high, color=fs.SKY, alpha=0.4, linewidth=0, label="10 to 90 %"
        )
        median.draw(lower)
        fs.legend_above(lower)
    _share_axis(lower, high)
    lower.set_ylabel("entropy gain")
    fs.step_axis(lower)
    named = [replace(e, label=f"entropy given the {e.label}") for e in entropies]
    read = zip(
        ("10th percentile of the gain", "median", "90th percentile"),
        (fs.SKY, fs.BLUE, fs.SKY),
        (low, middle, high),
        strict=True,
    )
    read = [Curve(name, color, steps, y, unit="share") for name, color, y in read]
    return Plot.of(
        figure,
        "gain",
        "Entropy gain",
        "Of all gated tokens: mean entropy given each image, and how far it rises, as "
        "a share of the negative view's. Perception tokens are chosen from the top; a "
        "median far above 0 means that entropy rises everywhere."
        f"{(median or entropies[0]).smoothed}",
        _alt(*named, replace(median, label="median entropy gain")),
        by_step((upper, lower), *named, *read),
    )


def selection_plot(run: RunContents) -> Plot | None:
    """How many responses count in CPL, and how many perception tokens each has."""
    gated = Curve(
        "gated share of responses",
        fs.GREEN,
        *run.series("cpl_gated_share"),
        unit="share",
    )
    count = Curve(
        "perception tokens per response",
        fs.BLUE,
        *run.series("cpl_selected_per_response"),
    )
    if not (gated or count):
        return None
    return _two_panels(
        "selection",
        "What counts in CPL",
        "Responses that the gate lets into CPL, and the tokens that entropy gain "
        f"selects in each of them.{(count or gated).smoothed}",
        (gated, "gated share\nof responses"),
        (count, "perception tokens\nper response"),
    )


def shortcut_plot(run: RunContents) -> Plot | None:
    """The two metrics in which the shortcut shows when both rise."""
    share = Curve(
        "perception token share",
        fs.BLUE,
        *run.series("cpl_selected_share"),
        unit="share",
    )
    divergence = Curve(
        "divergence of tokens not selected",
        fs.VERMILLION,
        *run.series("cpl_unselected_divergence"),
        unit="nats",
    )
    if not (share or divergence):
        return None
    return _two_panels(
        "shortcut",
        "Watch for the shortcut",
        "The share of gated tokens that is selected, and how far the tokens that are "
        "not selected move under the negative view. If both rise, the policy learns to "
        "change every token once it recognises the perturbation."
        f"{(share or divergence).smoothed}",
        (share, "perception token\nshare"),
        (divergence, "divergence of\nother tokens (nats)"),
    )


def _quantiles(run: RunContents) -> tuple[list[int], tuple[list[float], ...]]:
    """The steps that have all quantiles of the gain, and the quantiles."""
    rows = [
        (record["step"], *(record[key] for key in QUANTILES))
        for record in run.metrics
        if all(is_number(record.get(key)) for key in QUANTILES)
    ]
    steps, *columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return list(steps), tuple(list(column) for column in columns)


def _alt(*curves: Curve) -> str:
    """A picture of two panels, for those who cannot see it."""
    courses = "; ".join(curve.words for curve in curves)
    return f"Two line plots by training step: {courses}."


def _two_panels(
    name: str,
    title: str,
    caption: str,
    upper: tuple[Curve, str],
    lower: tuple[Curve, str],
) -> Plot:
    """Two metrics that are at least 0, with their axes' labels; the upper a share."""
    figure, axes = fs.panels(2, fs.HALF)
    for ax, (curve, label) in zip(axes, (upper, lower), strict=True):
        if curve:
            curve.draw(ax)
            ax.set_ylim(0, max(curve.values) * 1.15 or 1)
        ax.yaxis.set_major_locator(fs.ticks(5))
        ax.set_ylabel(label)
    _share_axis(axes[0], upper[0].values)
    fs.step_axis(axes[1])
    curves = upper[0], lower[0]
    read = by_step(axes, *curves)
    return Plot.of(figure, name, title, caption, _alt(*curves), read)


def _share_axis(ax: Axes, values: list[float]) -> None:
    """A vertical axis of shares from 0, in per cent."""
    ax.set_ylim(0, (max(values, default=0) * 1.15) or 1)
    ax.yaxis.set_major_locator(fs.ticks(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
