"""What a run's folder says of who was busy when: the input of `bench async`.

Three sources, each of which may be missing but the first:

| file | says |
| --- | --- |
| `metrics.jsonl` | of each step its wall time, what the trainer did in it, and counts |
| `timeline.json` | spans of generation and of weight updates |
| AReaL's traces | each response's own span and fate, and the controller's phases |

All times are seconds of training: 0 is when training began, and the time between a stop
and going on is left out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.folder import CLOCK, RunFolder, read_lines
from areal_cppo.report.runs import Run, load_run
from areal_cppo.report.timeline import Interval
from areal_cppo.run.finish import Start

WEIGHTS = "update_weights"  # the phase, by AReaL's name
ACCEPTED = "accepted"  # the fate of a response that a group could use


@dataclass(frozen=True)
class Session:
    """One response, from its first request to its last token."""

    worker: int  # the rollout worker that asked for it; each has a server of its own
    group: int  # of which problem; AReaL's task
    start: float
    end: float
    status: str  # AReaL's: accepted, rejected, failed, dropped, pending
    reward_seconds: float | None = None  # until its reward was known, from its end

    @property
    def span(self) -> Interval:
        return self.start, self.end


@dataclass(frozen=True)
class Side:
    """Who generates, or who trains."""

    units: int  # GPUs, or processes where there is no GPU
    servers: int  # processes that answer or train together, each of `units / servers`


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder, read."""

    run: Run
    sessions: list[Session] = field(default_factory=list)
    phases: list[tuple[float, float, str]] = field(default_factory=list)
    unit: str = "process"  # or GPU
    generation: Side = Side(1, 1)
    training: Side = Side(1, 1)
    resumed_at: list[float] = field(default_factory=list)  # where it went on

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self.run.metrics

    @property
    def weights(self) -> list[Interval]:
        """Spans of weight updates."""
        traced = [phase[:2] for phase in self.phases if phase[2] == WEIGHTS]
        return traced or [span[:2] for span in self.run.timeline.weights]


def read_run(folder: str | Path) -> RecordedRun:
    """Read a run's folder, finished or not.

    Raises
    ------
    UserError
        It is none, or has no train step.
    """
    folder = Path(folder)
    try:
        run = load_run(folder)
    except ValueError as error:
        raise UserError(f"--run: {error}") from error
    if not run.metrics:
        raise UserError(
            f"--run: expected a run with train steps, found none in {folder}/"
            "metrics.jsonl; give the folder of a run that has trained"
        )
    for record in run.metrics:
        missing = {"seconds", "step_seconds", "samples"} - record.keys()
        if missing:
            raise UserError(
                f"--run: expected {', '.join(sorted(missing))} in each line of "
                f"{folder}/metrics.jsonl, found none at step {record['step']}; give "
                "the folder of a run made by this version"
            )
    sessions, phases, resumed = _read_traces(folder, run.config)
    cluster = run.config.get("cluster") or {}
    return RecordedRun(
        run,
        sessions,
        phases,
        unit="GPU" if cluster.get("n_gpus_per_node") else "process",
        generation=_side(run.config, "rollout"),
        training=_side(run.config, "actor"),
        resumed_at=resumed,
    )


def trace_folder(folder: Path, config: dict[str, Any]) -> Path | None:
    """Where AReaL's tracers wrote, also if the run's folder was moved; None: nowhere.

    A folder whose name in the configuration is of another machine has it within.
    """
    tracer = config.get("perf_tracer")
    if not isinstance(tracer, dict):
        return None
    name = f"logs/*/{tracer.get('experiment_name')}/{tracer.get('trial_name')}"
    places = [Path(str(tracer.get("fileroot"))), folder / "areal", folder]
    return next((found for place in places for found in place.glob(name)), None)


def _read_traces(
    folder: Path, config: dict[str, Any]
) -> tuple[list[Session], list[tuple[float, float, str]], list[float]]:
    """Sessions, phases, and where the run was gone on with."""
    traces = trace_folder(folder, config)
    if traces is None:
        return [], [], []
    files = sorted(traces.glob("**/master/traces*.jsonl"))
    events = [event for file in files for event in read_lines(file)]
    starts = [Start.of(event) for event in events if event.get("name") == CLOCK]
    if not starts:
        return [], [], []
    resumed = [start.offset for start in starts[1:]]
    return _sessions(traces, starts), _phases(events, starts), resumed


def _kept_until(starts: list[Start], life: Start) -> float:
    """When a life's work ends that counts: where the next one took it up again."""
    later = (start.offset for start in starts if start.unix > life.unix)
    return min(later, default=math.inf)


def _sessions(traces: Path, starts: list[Start]) -> list[Session]:
    sessions = []
    for file in sorted(traces.glob("**/sessions*.jsonl")):
        number = re.search(r"-r(\d+)", file.stem)
        worker = int(number[1]) if number else 0
        for record in read_lines(file):
            for phase in record.get("phases", {}).get("generate", []):
                times = phase.get("start_ts"), phase.get("end_ts")
                if None in times:
                    continue  # still under way when the run ended
                life = max((s for s in starts if s.unix <= times[0]), default=starts[0])
                begin, end = (time - life.unix + life.offset for time in times)
                end = min(end, _kept_until(starts, life))
                status = str(record.get("status", ""))
                group = record.get("task_id", -1)
                reward = record.get("reward_s")
                if begin < end:
                    sessions.append(Session(worker, group, begin, end, status, reward))
    return sorted(sessions, key=lambda session: session.span)


def _phases(
    events: list[dict[str, Any]], starts: list[Start]
) -> list[tuple[float, float, str]]:
    """The controller's phases, as AReaL names them without `train.`."""
    phases, life = [], starts[0]
    for event in events:
        if event.get("name") == CLOCK:
            life = Start.of(event)
        name = str(event.get("name", ""))
        if event.get("ph") == "X" and name.startswith("train."):
            begin = life.offset + (event["ts"] - life.origin) / 1e6
            end = begin + event["dur"] / 1e6
            if end <= _kept_until(starts, life):
                phases.append((begin, end, name.removeprefix("train.")))
    return sorted(phases)


def _side(config: dict[str, Any], name: str) -> Side:
    """GPUs (or processes) and groups of them, by the configuration's `backend`."""
    backend = (config.get(name) or {}).get("backend")
    if not backend:
        return Side(1, 1)
    from areal.api.alloc_mode import ModelAllocation

    parallel = ModelAllocation.from_str(backend, name=name).parallel
    return Side(parallel.world_size, parallel.data_parallel_size)


def held_out(folder: str | Path) -> dict[int, tuple[float, int]]:
    """Held-out accuracy and the number of problems, by step."""
    lines = read_lines(RunFolder(folder).evaluations)
    return {line["step"]: (line["accuracy"], line["n"]) for line in lines}
