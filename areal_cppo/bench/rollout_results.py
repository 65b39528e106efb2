"""What `bench rollout` measured: as JSON, as a table, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from areal_cppo.bench.plots import picture
from areal_cppo.report import figure_style as fs
from areal_cppo.report.table import table

PERCENTILES = (50, 90, 99)
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


@dataclass
class Answer:
    """One request that was answered."""

    seconds: float
    tokens: int
    interrupted: bool
    first_token: float | None


@dataclass
class Point:
    """What was measured at one concurrency."""

    concurrency: int
    requests: int
    weight_update: bool
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    resent: int = 0
    failed: int = 0
    refused: int = 0
    update_seconds: float | None = None

    @property
    def done(self) -> int:
        """Requests that have come to an end."""
        return len(self.answers) + self.failed + self.refused

    def describe(self) -> dict[str, Any]:
        """As the JSON file has it."""
        tokens = sum(answer.tokens for answer in self.answers)
        latencies = [answer.seconds for answer in self.answers]
        firsts = [a.first_token for a in self.answers if a.first_token is not None]
        rate = 1 / self.seconds if self.seconds else 0.0
        return {
            "concurrency": self.concurrency,
            "weight_update": self.weight_update,
            "complete": self.done == self.requests,
            "requests": len(self.answers),
            "tokens": tokens,
            "seconds": self.seconds,
            "tokens_per_second": tokens * rate,
            "requests_per_second": len(self.answers) * rate,
            "mean_in_flight": sum(latencies) * rate,
            "latency_seconds": _summary(latencies),
            "first_token_seconds": _summary(firsts),
            "interrupted": sum(answer.interrupted for answer in self.answers),
            "resent": self.resent,
            "failed": self.failed,
            "refused": self.refused,
            "update_seconds": self.update_seconds,
        }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, PERCENTILES)
    named = {f"p{q}": float(v) for q, v in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(np.mean(values))} | named


def points_table(points: Sequence[dict[str, Any]]) -> str:
    """A line a point of the JSON file; times in seconds."""
    return table(_HEADINGS, map(_row, points))


def _row(point: dict[str, Any]) -> tuple[str | None, ...]:
    latency, first = point["latency_seconds"], point["first_token_seconds"]

    def cell(summary: dict[str, float] | None, name: str) -> str | None:
        return None if summary is None else f"{summary[name]:.3f}"

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


def draw_points(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw throughput and latency against concurrency."""
    kinds = (
        (False, fs.BLUE, "weights kept"),
        (True, fs.ORANGE, "weight update in the middle"),
    )
    title = "Generation servers: throughput and latency by requests in flight"
    with picture(path, title, (9, 4.4), 2) as (rate, latency):
        for update, color, label in kinds:
            chosen = [
                point
                for point in points
                if point["weight_update"] == update and point["latency_seconds"]
            ]
            if not chosen:
                continue
            places = [point["concurrency"] for point in chosen]
            rates = [point["tokens_per_second"] for point in chosen]
            dots = {"color": color, "marker": "o", "markersize": 3.5}
            rate.plot(places, rates, **dots, label=label)
            for q, style in zip(PERCENTILES, ("-", "--", ":")):
                times = [point["latency_seconds"][f"p{q}"] for point in chosen]
                name = f"p{q}, update" if update else f"p{q}"
                latency.plot(places, times, style, **dots, label=name)
        rate.set_ylabel("throughput (response tokens/s)")
        latency.set_ylabel("latency of a request (s), percentiles")
        for ax in (rate, latency):
            ax.set_xlabel("requests in flight")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_ylim(bottom=0)
            fs.legend_above(ax, columns=2 if ax is rate else 3)
