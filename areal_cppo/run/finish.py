"""Finishes a run's folder: the time line, the summary and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from areal_cppo.folder import CLOCK, RunFolder, read_lines
from areal_cppo.report.html import write_report
from areal_cppo.report.runs import Run, load_run
from areal_cppo.report.timeline import overlap_share, union

# What the controller's trace calls the phases in which the trainer computes.
TRAINING_PHASES = {
    "train.recompute_logp": "log-probs",
    "train.ref_logp": "reference log-probs",
    "train.compute_advantage": "advantages",
    "train.ppo_update": "update",
}
WEIGHTS_PHASE = "train.update_weights"


def finish_run(path: str | Path) -> Path:
    """Write `timeline.json`, `summary.json` and `report.html`; returns the last.

    Works on what there is: a run that was killed has fewer steps and a shorter line.
    """
    folder = RunFolder(path)
    timeline = read_timeline(folder)
    if timeline is not None:
        folder.write(folder.timeline, timeline)
    run = load_run(folder.path)
    folder.write(folder.summary, summarize(run))
    return write_report(folder.path)


def read_timeline(folder: RunFolder) -> dict[str, list] | None:
    """When was generated, trained, and weights were handed over.

    Read from AReaL's own tracers: the controller's phases, and the sessions of the
    rollout workers, whose clock is the wall clock. Seconds of training, on one clock,
    without those between a stop and going on; `None` where the run was not traced.
    """
    traces = _trace_folder(folder)
    if traces is None:
        return None
    events = [
        event
        for file in traces.glob("**/master/traces*.jsonl")
        for event in read_lines(file)
    ]
    starts = [Start.of(e) for e in events if e.get("name") == CLOCK]
    if not starts:
        return None
    training, weights, generation = [], [], []
    start = starts[0]
    for event in events:
        if event.get("name") == CLOCK:
            start = Start.of(event)
        if event.get("ph") != "X":
            continue
        begin = start.offset + (event["ts"] - start.origin) / 1e6
        span = [round(begin, 3), round(begin + event["dur"] / 1e6, 3)]
        if event["name"] in TRAINING_PHASES:
            training.append([*span, TRAINING_PHASES[event["name"]]])
        elif event["name"] == WEIGHTS_PHASE:
            weights.append(span)
    for file in traces.glob("**/sessions*.jsonl"):
        for session in read_lines(file):
            for phase in session.get("phases", {}).get("generate", []):
                times = phase["start_ts"], phase["end_ts"]
                if None in times:
                    continue
                start = max(
                    (s for s in starts if s.unix <= times[0]), default=starts[0]
                )
                generation.append(
                    [round(start.offset + time - start.unix, 3) for time in times]
                )
    return {
        "generation": sorted(generation),
        "training": sorted(training),
        "weights": sorted(weights),
    }


@dataclass(frozen=True, order=True)
class Start:
    """One of the times at which training began: the first, or going on."""

    unix: float  # seconds
    origin: float  # what the tracer's clock showed then, microseconds
    offset: float  # seconds that training had taken before

    @classmethod
    def of(cls, event: dict[str, Any]) -> Start:
        said = event["args"]
        return cls(said["unix_seconds"], event["ts"], said.get("offset", 0.0))


def _trace_folder(folder: RunFolder) -> Path | None:
    """Where AReaL's tracers wrote, by the run's configuration; `None` if nowhere."""
    if not folder.config.is_file():
        return None
    tracer = (yaml.safe_load(folder.config.read_text()) or {}).get("perf_tracer")
    if not tracer:
        return None
    name = f"logs/*/{tracer['experiment_name']}/{tracer['trial_name']}"
    return next(Path(tracer["fileroot"]).glob(name), None)


def summarize(run: Run) -> dict[str, Any]:
    """`summary.json`: the run in one object; unknown values are null."""
    config = yaml.safe_load(run.config_text or "") or {}
    first, last = (run.evaluations or [{}])[0], (run.evaluations or [{}])[-1]
    stale = _staleness(run)
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
        "overlap_share": overlap,
        "max_staleness": max(stale, default=None),
        "mean_staleness": (
            sum(k * n for k, n in stale.items()) / sum(stale.values())
            if stale
            else None
        ),
        "refused": run.last("refused") or {},
    }


def _staleness(run: Run) -> dict[int, int]:
    """Response tokens trained on, by staleness."""
    totals: dict[int, int] = {}
    for record in run.metrics:
        for key, count in record.get("staleness_histogram", {}).items():
            totals[int(key)] = totals.get(int(key), 0) + count
    return totals


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
