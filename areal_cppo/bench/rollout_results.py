"""What `bench rollout` shows: a table, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from areal_cppo.report import figure_style as fs

_DPI = 150
_HEADINGS = (
    "concurrency",
    "weights",
    "tokens/s",
    "requests/s",
    "latency p50",
    "p90",
    "p99",
    "first token p50",
    "p99",
    "interrupted",
    "lost",
)


def table(points: Sequence[dict[str, Any]]) -> str:
    """Aligned columns; times in seconds."""
    rows = [_HEADINGS, *map(_row, points)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows
    )


def _row(point: dict[str, Any]) -> tuple[str, ...]:
    latency, first = point["latency_seconds"], point["first_token_seconds"]

    def cell(summary: dict[str, float] | None, name: str) -> str:
        return "-" if summary is None else f"{summary[name]:.3f}"

    update = point["update_seconds"]
    if not point["weight_update"]:
        weights = "kept"
    else:
        weights = "updated" if update is None else f"updated in {update:.2f}"
    return (
        f"{point['concurrency']}" + ("" if point["complete"] else " (cut off)"),
        weights,
        f"{point['tokens_per_second']:.1f}",
        f"{point['requests_per_second']:.2f}",
        *(cell(latency, f"p{q}") for q in (50, 90, 99)),
        *(cell(first, f"p{q}") for q in (50, 99)),
        f"{point['interrupted']}",
        f"{point['failed'] + point['refused']}",
    )


def draw(points: Sequence[dict[str, Any]], path: str) -> Path:
    """Draw throughput and latency against concurrency; the picture's path."""
    with fs.style():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        rate, latency = figure.subplots(1, 2)
        for update, color, label in (
            (False, fs.BLUE, "weights kept"),
            (True, fs.ORANGE, "weight update in the middle"),
        ):
            chosen = [
                point
                for point in points
                if point["weight_update"] == update and point["latency_seconds"]
            ]
            if not chosen:
                continue
            places = [point["concurrency"] for point in chosen]
            rates = [point["tokens_per_second"] for point in chosen]
            rate.plot(places, rates, color=color, marker="o", label=label)
            for q, style in ((50, "-"), (90, "--"), (99, ":")):
                times = [point["latency_seconds"][f"p{q}"] for point in chosen]
                name = f"p{q}" if not update else f"p{q}, update"
                latency.plot(places, times, style, color=color, marker="o", label=name)
        rate.set_ylabel("response tokens/s")
        latency.set_ylabel("latency (s)")
        for ax in (rate, latency):
            ax.set_xlabel("requests in flight")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_ylim(bottom=0)
            fs.legend_above(ax, columns=2 if ax is rate else 3)
        figure.savefig(path, dpi=_DPI)
    return Path(path)
