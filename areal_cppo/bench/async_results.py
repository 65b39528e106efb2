"""What `bench async` shows: a table, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from areal_cppo.report import figure_style as fs

_DPI = 150
_TRAINER = {
    "computing": fs.BLUE,
    "weights": fs.ORANGE,
    "other": fs.PURPLE,
    "idle": fs.GREY,
}
_GENERATION = {"busy": fs.GREEN, "paused": fs.ORANGE, "no request": fs.GREY}


def table(figures: dict[str, Any]) -> str:
    """Aligned lines of names and values; what the run does not say is left out."""
    rows = [row for part in _PARTS for row in part(figures)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _overall(figures):
    steps, times = figures["steps"], figures["step_seconds"]
    left_out = f"first {steps['warmup']} left out" if steps["warmup"] else "all of them"
    yield "steps", f"{steps['first']} to {steps['last']} ({left_out})"
    if steps["resumed"]:
        yield "resumed", f"{steps['resumed']} x; the cold steps after it count"
    yield (
        "step, seconds",
        f"{times['mean']:.2f} ({times['min']:.2f}-{times['max']:.2f})",
    )
    yield "effective samples/s", f"{figures['samples_per_second']:.2f}"
    yield "effective tokens/s", f"{figures['tokens_per_second']:.0f}"


def _stage_rows(figures):
    for name, stage in figures["stages"].items():
        rate = stage["tokens_per_second_per_unit"]
        if rate is not None:
            label = f"{name}, tokens/s per {figures['unit']}"
            yield label, f"{rate:,.0f} ({stage['seconds']:.1f} s at work)"


def _shares(figures):
    trainer, generation = figures["trainer"], figures["generation"]
    yield "trainer idle", f"{trainer['idle_share']:.1%} (waits for responses)"
    yield (
        "trainer computes, weights, other",
        ", ".join(
            f"{trainer[f'{name}_share']:.1%}"
            for name in ("computing", "weights", "other")
        ),
    )
    if generation is not None:
        yield (
            "generation idle",
            f"{generation['idle_share']:.1%} (paused {generation['paused_share']:.1%}, "
            f"no request {generation['no_request_share']:.1%})",
        )
        yield "requests in flight, mean", f"{generation['mean_in_flight']:.1f}"
    weights = figures["weight_update_seconds"]
    if weights is not None:
        yield (
            "weight update, seconds",
            f"{weights['mean']:.2f} ({weights['min']:.2f}-{weights['max']:.2f})",
        )


def _counts(figures):
    stale, hit = figures["staleness"], figures["interrupted"]
    if stale is not None:
        total = sum(stale["tokens"].values())
        shares = ", ".join(f"{k}: {n / total:.1%}" for k, n in stale["tokens"].items())
        yield "staleness, mean and largest", f"{stale['mean']:.2f}, {stale['max']}"
        yield "tokens by staleness", shares
    if hit is not None and hit["responses"] is not None:
        yield (
            "interrupted responses",
            f"{hit['responses']}, of which resumed and accepted {hit['resumed']}",
        )
    if hit is not None and hit["trained_on"] is not None:
        yield "of several versions, trained on", str(hit["trained_on"])
    lost = ", ".join(f"{k} {n}" for k, n in figures["discarded"].items() if n)
    yield "discarded", lost or "none"


def _costs(figures):
    cpl, mfu = figures["cpl"], figures["mfu"]
    if cpl is not None:
        tokens = cpl["share_of_tokens"]
        yield (
            "CPL, forward passes",
            f"{cpl['share_of_step']:.1%} of the step"
            + ("" if tokens is None else f", {tokens:.1%} of its update's tokens"),
        )
    if mfu is not None:
        yield (
            "model FLOP/s utilisation",
            f"trainer {mfu['training']:.1%}, generation {mfu['generation']:.1%}, "
            f"all {mfu['all']:.1%}",
        )


_PARTS = (_overall, _stage_rows, _shares, _counts, _costs)


def draw(figures: dict[str, Any], steps: list[dict[str, Any]], path: str) -> Path:
    """Draw rate by step, shares of time, and staleness; the picture's path.

    Parameters
    ----------
    steps
        All records of `metrics.jsonl`.
    path
        Of the picture; its ending says which kind.
    """
    with fs.style():
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        rate, share, stale = figure.subplots(1, 3, width_ratios=(1.2, 1.4, 1))
        _draw_rate(rate, figures, steps)
        _draw_shares(share, figures)
        _draw_staleness(stale, figures)
        figure.savefig(path, dpi=_DPI)
    return Path(path)


def _draw_rate(ax: Axes, figures, steps) -> None:
    before = 0
    places, rates = [], []
    for record in steps:
        places.append(record["step"])
        rates.append((record["samples"] - before) / record["step_seconds"])
        before = record["samples"]
    ax.plot(places, rates, color=fs.BLUE, marker="o", markersize=3.5)
    first = figures["steps"]["first"]
    if figures["steps"]["warmup"]:
        ax.axvspan(places[0] - 0.5, first - 0.5, color=fs.GREY, alpha=0.35, lw=0)
    ax.axhline(figures["samples_per_second"], color=fs.MUTED, linewidth=0.8)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("accepted samples/s")
    fs.step_axis(ax)


def _draw_shares(ax: Axes, figures) -> None:
    trainer, generation = figures["trainer"], figures["generation"]
    bars = [("trainer", {k: trainer[f"{k}_share"] for k in _TRAINER}, _TRAINER)]
    if generation is not None:
        shares = {
            "busy": 1 - generation["idle_share"],
            "paused": generation["paused_share"],
            "no request": generation["no_request_share"],
        }
        bars.append(("generation", shares, _GENERATION))
    for place, (_, shares, colors) in enumerate(bars):
        left = 0.0
        for name, share in shares.items():
            ax.barh(place, share, 0.5, left, color=colors[name])
            if share > 0.08:
                words = f"{name}\n{share:.0%}"
                middle = left + share / 2
                ax.text(middle, place, words, ha="center", va="center", fontsize=7)
            left += share
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of wall time")
    ax.invert_yaxis()
    ax.grid(visible=False)


def _draw_staleness(ax: Axes, figures) -> None:
    stale = figures["staleness"]
    if stale is not None:
        total = sum(stale["tokens"].values())
        places = [int(k) for k in stale["tokens"]]
        ax.bar(places, [n / total for n in stale["tokens"].values()], color=fs.SKY)
        ax.xaxis.set_major_locator(fs.ticks(8, integer=True))
    ax.set_xlabel("staleness (versions)")
    ax.set_ylabel("share of tokens")
