"""Finishes a run's folder: time line, summary, model cards and report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from areal_cppo.folder import RunFolder
from areal_cppo.report.card import write_cards
from areal_cppo.report.html import write_report
from areal_cppo.report.runs import RunContents, load_run
from areal_cppo.report.timeline import overlap_share, union
from areal_cppo.report.trace import COMPUTING, WEIGHTS, read_trace


def finish_run(path: str | Path) -> Path:
    """Write `timeline.json`, `summary.json`, a model card into each checkpoint, and
    `report.html`; returns the last.

    Works on what there is: a run that was killed has fewer steps and a shorter line.
    """
    folder = RunFolder(path)
    timeline = read_timeline(folder)
    if timeline is not None:
        folder.write(folder.timeline, timeline)
    run = load_run(folder.path)
    run = replace(run, summary=summarize(run))
    folder.write(folder.summary, run.summary)
    write_cards(run, keep_edited=True)
    return write_report(folder.path)


def read_timeline(folder: RunFolder) -> dict[str, list] | None:
    """When was generated, trained, and weights were handed over, in seconds of
    training; `None` where the run was not traced."""
    if not folder.config.is_file():
        return None
    trace = read_trace(folder.path, yaml.safe_load(folder.config.read_text()) or {})
    if trace is None:
        return None
    names = {phase.traced: phase.name for phase in COMPUTING}
    training, weights = [], []
    for start, end, traced in trace.phases:
        span = [round(start, 3), round(end, 3)]
        if traced in names:
            training.append([*span, names[traced]])
        elif traced == WEIGHTS.traced:
            weights.append(span)
    generation = [[round(time, 3) for time in each.span] for each in trace.sessions]
    return {
        "generation": sorted(generation),
        "training": sorted(training),
        "weights": sorted(weights),
    }


def summarize(run: RunContents) -> dict[str, Any]:
    """`summary.json`: the run in one object; unknown values are null."""
    config = yaml.safe_load(run.config_text or "") or {}
    first, last = (run.evaluations or [{}])[0], (run.evaluations or [{}])[-1]
    stale = run.staleness
    seconds = run.metrics[-1]["seconds"] if run.metrics else 0.0
    # While weights are handed over the servers stand still, though requests are open.
    timeline = run.timeline
    generating = _without(union(timeline.generation), timeline.weights)
    overlap = None
    if seconds and timeline:
        overlap = overlap_share(generating, timeline.training, (0.0, seconds))
    return {
        "objective": config.get("actor", {}).get("objective"),
        "seed": config.get("seed"),
        "steps": len(run.metrics),
        "seconds": seconds,
        "accuracy_before": first.get("accuracy") if first.get("step") == 0 else None,
        "accuracy_after": last.get("accuracy") if last.get("step") else None,
        "accuracy_n": last.get("n"),
        "best": _best(run),
        "overlap_share": overlap,
        "max_staleness": max(stale, default=None),
        "mean_staleness": (
            sum(k * n for k, n in stale.items()) / sum(stale.values())
            if stale
            else None
        ),
        "refused": run.last("refused") or {},
        "failure": run.failure,
    }


def _best(run: RunContents) -> dict[str, Any] | None:
    """The best validation whose checkpoint is kept; the earliest of equals."""
    kept = [line for line in run.evaluations if line.get("checkpoint")]
    best = max(kept, key=lambda line: (line["accuracy"], -line["step"]), default={})
    names = "step", "accuracy", "n", "checkpoint"
    return {name: best[name] for name in names} if best else None


def _without(intervals, holes) -> list[tuple[float, float]]:
    """The moments of `intervals` that lie in none of `holes`."""
    rest = [(span[0], span[1]) for span in intervals]
    for start, end in ((hole[0], hole[1]) for hole in holes):
        rest = [
            piece
            for left, right in rest
            for piece in ((left, min(right, start)), (max(left, end), right))
            if piece[0] < piece[1]
        ]
    return rest
