"""What `bench async` shows: a run, or several at other bounds, as table and picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from areal_cppo.bench.plots import picture
from areal_cppo.report import figure_style as fs
from areal_cppo.report.table import table

_TRAINER = {
    "computing": fs.BLUE,
    "weights": fs.ORANGE,
    "other": fs.PURPLE,
    "idle": fs.GREY,
}
_GENERATION = {"busy": fs.GREEN, "paused": fs.ORANGE, "no request": fs.GREY}
_TRADEOFF = (
    "bound",
    "rounds",
    "samples/s",
    "ratio (min-max)",
    "staleness",
    "trainer idle",
    "accuracy",
)
Rows = Iterator[tuple[str, str]]


def run_table(figures: dict[str, Any]) -> str:
    """Aligned lines of names and values; what the run does not say is left out."""
    parts = (_overall, _parts, _stage_rows, _shares, _counts, _costs)
    return table(None, [row for part in parts for row in part(figures)], words=2)


def _overall(figures: dict[str, Any]) -> Rows:
    steps, times = figures["steps"], figures["step_seconds"]
    left_out = f"first {steps['warmup']} left out" if steps["warmup"] else "all of them"
    yield "steps", f"{steps['first']} to {steps['last']} ({left_out})"
    if steps["resumed"]:
        yield "resumed", f"{steps['resumed']} x; the cold steps after it count"
    yield "step, seconds", _spread(times)
    yield "effective samples/s", f"{figures['samples_per_second']:.2f}"
    yield "effective tokens/s", f"{figures['tokens_per_second']:.0f}"


def _parts(figures: dict[str, Any]) -> Rows:
    mean = figures["step_seconds"]["mean"]
    for name, seconds in figures["parts"].items():
        yield f"  {name}", f"{seconds:.2f} s, {seconds / mean:.1%}"


def _spread(seconds: dict[str, float]) -> str:
    return f"{seconds['mean']:.2f} ({seconds['min']:.2f}-{seconds['max']:.2f})"


def _stage_rows(figures: dict[str, Any]) -> Rows:
    for name, stage in figures["stages"].items():
        rate = stage["tokens_per_second_per_unit"]
        if rate is not None:
            label = f"{name}, tokens/s per {figures['unit']}"
            yield label, f"{rate:,.0f} ({stage['seconds']:.1f} s at work)"


def _shares(figures: dict[str, Any]) -> Rows:
    trainer, generation = figures["trainer"], figures["generation"]
    yield "trainer idle", f"{trainer['idle_share']:.1%} (waits for responses)"
    rest = [trainer[f"{name}_share"] for name in ("computing", "weights", "other")]
    yield "trainer computes, weights, other", ", ".join(f"{x:.1%}" for x in rest)
    if generation is not None:
        yield (
            "generation idle",
            f"{generation['idle_share']:.1%} (paused {generation['paused_share']:.1%}, "
            f"no request {generation['no_request_share']:.1%})",
        )
        yield "requests in flight, mean", f"{generation['mean_in_flight']:.1f}"
    if figures["weight_update_seconds"] is not None:
        yield "weight update, seconds", _spread(figures["weight_update_seconds"])


def _counts(figures: dict[str, Any]) -> Rows:
    stale, hit = figures["staleness"], figures["interrupted"]
    if stale is not None:
        yield "staleness, mean and largest", f"{stale['mean']:.2f}, {stale['max']}"
        shares = _token_shares(stale).items()
        yield "tokens by staleness", ", ".join(f"{k}: {x:.1%}" for k, x in shares)
    if hit is not None and hit["responses"] is not None:
        yield (
            "interrupted responses",
            f"{hit['responses']}, of which resumed and accepted {hit['resumed']}",
        )
    if hit is not None and hit["trained_on"] is not None:
        yield "of several versions, trained on", str(hit["trained_on"])
    lost = ", ".join(f"{k} {n}" for k, n in figures["discarded"].items() if n)
    yield "discarded", lost or "none"


def _token_shares(stale: dict[str, Any]) -> dict[int, float]:
    total = sum(stale["tokens"].values())
    return {int(versions): n / total for versions, n in stale["tokens"].items()}


def _costs(figures: dict[str, Any]) -> Rows:
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


def draw_run(figures: dict[str, Any], steps: list[dict[str, Any]], path: Path) -> None:
    """Draw rate by step, shares of time, and staleness.

    Parameters
    ----------
    steps
        All records of `metrics.jsonl`.
    path
        Of the picture; its ending says which kind.
    """
    title = "A run's throughput, what its two sides did, and how old its tokens were"
    with picture(path, title, (12.6, 4.2), 3, width_ratios=(1.2, 1.9, 1)) as axes:
        for part, ax in zip((_draw_rate, _draw_shares, _draw_staleness), axes):
            part(ax, figures, steps)


def _draw_rate(ax: Axes, figures: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    before = 0
    places, rates = [], []
    for record in steps:
        places.append(record["step"])
        rates.append((record["samples"] - before) / record["step_seconds"])
        before = record["samples"]
    ax.plot(places, rates, color=fs.BLUE, marker="o", markersize=3.5, label="a step")
    first = figures["steps"]["first"]
    if figures["steps"]["warmup"]:
        ends = places[0] - 0.5, first - 0.5
        ax.axvspan(*ends, color=fs.GREY, alpha=0.35, lw=0, label="left out")
    mean = figures["samples_per_second"]
    ax.axhline(mean, color=fs.MUTED, linewidth=0.8, label="mean")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("throughput (accepted samples/s)")
    fs.step_axis(ax)
    fs.legend_above(ax, columns=3)


def _draw_shares(ax: Axes, figures: dict[str, Any], _) -> None:
    trainer, generation = figures["trainer"], figures["generation"]
    bars = [("trainer", {k: trainer[f"{k}_share"] for k in _TRAINER}, _TRAINER)]
    if generation is not None:
        shares = {
            "busy": 1 - generation["idle_share"],
            "paused": generation["paused_share"],
            "no request": generation["no_request_share"],
        }
        bars.append(("generation", shares, _GENERATION))
    for place, (who, shares, colors) in enumerate(bars):
        left = 0.0
        for name, share in shares.items():
            label = f"{who}: {name} {share:.0%}"
            ax.barh(place, share, 0.5, left, color=colors[name], label=label)
            left += share
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of wall time")
    ax.invert_yaxis()
    ax.grid(visible=False)
    fs.legend_above(ax, columns=2)


def _draw_staleness(ax: Axes, figures: dict[str, Any], _) -> None:
    if figures["staleness"] is not None:
        shares = _token_shares(figures["staleness"])
        ax.bar(list(shares), list(shares.values()), color=fs.SKY)
        ax.xaxis.set_major_locator(fs.ticks(8, integer=True))
    ax.set_ylim(0, 1)
    ax.set_xlabel("staleness (versions)")
    ax.set_ylabel("share of the tokens trained on")


def tradeoff_table(entries: Sequence[dict[str, Any]]) -> str:
    """A line a bound; the accuracy is that after the last step."""
    return table(_TRADEOFF, map(_tradeoff_row, entries))


def _tradeoff_row(entry: dict[str, Any]) -> tuple[str | None, ...]:
    ratios, last, stale = entry["ratios"], _last(entry), entry["staleness_mean"]
    ratio = accuracy = None
    if ratios:
        ratio = f"{entry['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    if last is not None:
        accuracy = f"{last['accuracy']:.1%} ({last['low']:.1%}-{last['high']:.1%})"
    return (
        f"{entry['staleness_bound']}",
        f"{entry['rounds']}",
        f"{entry['samples_per_second']:.2f}",
        ratio,
        None if stale is None else f"{stale:.2f}",
        f"{entry['trainer_idle_share']:.1%}",
        accuracy,
    )


def _last(entry: dict[str, Any]) -> dict[str, Any] | None:
    return next(reversed(entry["accuracy"].values()), None)


def draw_tradeoff(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw throughput and accuracy against the bound."""
    title = "Throughput, and accuracy at equal samples, by bound of staleness"
    with picture(path, title, (9, 4.2), 2) as (rate, accuracy):
        for place, entry in enumerate(entries):
            ratios, last = entry["ratios"], _last(entry)
            label = "a round" if not rate.lines else "_"
            dots = {"color": fs.SKY, "markersize": 4, "label": label}
            rate.plot([place] * len(ratios), ratios, "o", **dots)
            if last is not None:
                share = last["accuracy"]
                around = [[share - last["low"]], [last["high"] - share]]
                accuracy.errorbar(
                    place, share, around, color=fs.BLUE, marker="o", capsize=3
                )
        known = {
            i: entry["ratio"] for i, entry in enumerate(entries) if entry["ratios"]
        }
        rate.plot(list(known), list(known.values()), color=fs.BLUE, label="median")
        rate.axhline(1, color=fs.MUTED, linewidth=0.8)
        rate.set_ylim(bottom=0)
        bounds = [str(entry["staleness_bound"]) for entry in entries]
        rate.set_ylabel(f"samples/s, ratio to bound {bounds[0]}")
        accuracy.set_ylabel("held-out accuracy (share), 95 % interval")
        accuracy.set_ylim(0, 1)
        fs.legend_above(rate)
        for ax in (rate, accuracy):
            ax.set_xticks(range(len(bounds)), bounds)
            ax.set_xlabel("bound of staleness (policy versions)")
