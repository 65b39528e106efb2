"""Throughput against the split of the GPUs, for each staleness bound."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from areal_cppo.plan.rates import Rates
from areal_cppo.plan.search import Plan
from areal_cppo.report import figure_style as fs

_COLORS = (fs.BLUE, fs.VERMILLION, fs.GREEN, fs.PURPLE, fs.ORANGE, fs.SKY)
_DPI = 150


def plot(plan: Plan, rates: Rates, path: str | Path) -> None:
    """Draw `plan` into a file whose name's end says the format."""
    with fs.style():
        draw(plan, rates).savefig(path, dpi=_DPI)


def draw(plan: Plan, rates: Rates) -> Figure:
    """Simulated points, upper bounds as lines, a ring around the recommended one."""
    figure, (ax,) = fs.panels(1, (7.2, 4.6))
    bounds = sorted({c.setting.staleness for c in plan.candidates})
    for i, bound in enumerate(bounds):
        color = _COLORS[i % len(_COLORS)]
        mine = [c for c in plan.candidates if c.setting.staleness == bound]
        mine.sort(key=lambda c: c.setting.servers)
        places = [c.setting.servers * rates.server.gpus for c in mine]
        ax.plot(
            places, [c.most for c in mine], color=color, linewidth=0.9, linestyle=":"
        )
        simulated = [(x, c) for x, c in zip(places, mine) if c.outcome]
        ax.plot(
            [x for x, _ in simulated],
            [c.samples_per_second for _, c in simulated],
            color=color,
            marker="o",
            markersize=max(3, 9 - 1.5 * i),  # where they coincide all are seen
            label=f"bound {bound}",
        )
    if plan.turns is not None:
        ax.axhline(
            plan.turns.samples_per_second,
            color=fs.MUTED,
            linewidth=1.2,
            linestyle="--",
            label="all GPUs take turns",
        )
    chosen = plan.recommended
    if chosen is not None:
        generating = chosen.setting.servers * rates.server.gpus
        ax.plot(
            generating,
            chosen.samples_per_second,
            linestyle="none",
            marker="o",
            markersize=16,
            markerfacecolor="none",
            markeredgecolor=fs.INK,
            markeredgewidth=1.6,
            label=f"recommended: {generating} GPUs generate, "
            f"bound {chosen.setting.staleness}",
        )
    # Near the ends of a large cluster the upper bounds leave the picture.
    highest = max((c.samples_per_second for c in plan.candidates), default=0.0)
    most = max((c.most for c in plan.candidates), default=0.0)
    ax.set_ylim(0, min(1.6 * highest, 1.1 * most) or None)
    figure.suptitle(
        f"Simulated throughput by split of {plan.gpus} GPUs and staleness bound",
        fontsize=11,
    )
    ax.set_xlabel("GPUs that generate; the rest train (dotted: upper bound)")
    ax.set_ylabel("throughput (samples/s)")
    ax.xaxis.set_major_locator(fs.ticks("auto", integer=True))
    fs.legend_above(ax, columns=3)
    return figure
