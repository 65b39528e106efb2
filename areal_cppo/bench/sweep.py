"""`bench train-step --sweep KNOB`: how the ratios depend on one knob.

Three arms, AReaL's GRPO (a), ours (c) and CPPO (d), over a few values of the knob; the
rest of the workload stays. With another group size the number of groups changes so that
the responses stay about as many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from areal_cppo.bench.workload import Workload

VALUES: dict[str, tuple[float, ...]] = {
    "positive": (0.0, 0.125, 0.25, 0.5, 0.75),
    "response": (100, 200, 400, 800),
    "image": (112, 224, 448, 672),
    "group": (2, 4, 8, 16),
}
ARMS = "a,c,d"


def points(knob: str, workload: Workload, quick: bool) -> list[Workload]:
    """The workloads of a sweep, all checked before anything runs."""
    values = VALUES[knob][: 2 if quick else None]
    return [replace(workload, **_changed(knob, value, workload)) for value in values]


def _changed(knob: str, value: float, workload: Workload) -> dict[str, Any]:
    if knob != "group":
        return {knob: value}
    return {"group": value, "groups": max(1, workload.samples // value)}
