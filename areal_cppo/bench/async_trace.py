"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing read.

Chrome's trace event format, JSON: complete events (`X`, with `ts` and `dur` in whole
microseconds of training), counters (`C`) and names (`M`). Its processes are the tracks:
steps, the trainer's phases, weight updates, and for each generation server its
responses, in as many rows as were open at once.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from areal_cppo.bench.async_run import RecordedRun
from areal_cppo.report.timeline import in_flight
from areal_cppo.report.trace import PHASES, WAIT, WEIGHTS, Session

STEPS, TRAINER, UPDATES, FIRST_SERVER = 1, 2, 3, 10  # numbers of processes
_NAMES = {phase.traced: phase.name for phase in PHASES}
_NAMES[WAIT.traced] = "wait for responses"
_SHORTEST = 1e-4  # seconds: of a phase that is shown
_STEP_ARGUMENTS = (
    "samples",
    "reward",
    "accuracy",
    "staleness_mean",
    "staleness_max",
    "tokens_per_second",
    "seconds_rollout",
)
Events = Iterator[dict[str, Any]]


def write_trace(path: str | Path, recorded: RecordedRun) -> int:
    """Write the trace of a run; returns how many events it has."""
    document = trace(recorded)
    text = json.dumps(document, separators=(",", ":")) + "\n"
    Path(path).write_text(text, encoding="utf-8")
    return len(document["traceEvents"])


def trace(recorded: RecordedRun) -> dict[str, Any]:
    """The JSON object."""
    parts = (_steps, _trainer, _updates, _servers)
    return {
        "traceEvents": [event for part in parts for event in part(recorded)],
        "displayTimeUnit": "ms",
        "otherData": {"run": recorded.run.folder.resolve().name},
    }


def _steps(recorded: RecordedRun) -> Events:
    yield from _named(STEPS, "train steps", "steps")
    for record in recorded.metrics:
        end = record["seconds"]
        arguments = {key: record[key] for key in _STEP_ARGUMENTS if key in record}
        begin = end - record["step_seconds"]
        yield _complete(f"step {record['step']}", STEPS, 0, begin, end, arguments)


def _trainer(recorded: RecordedRun) -> Events:
    yield from _named(TRAINER, "trainer", "phases")
    phases = recorded.phases or recorded.run.timeline.training
    for begin, end, name in phases:
        if name != WEIGHTS.traced and end - begin >= _SHORTEST:
            yield _complete(_NAMES.get(name, name), TRAINER, 0, begin, end, {})


def _updates(recorded: RecordedRun) -> Events:
    yield from _named(UPDATES, "weight updates", "updates")
    for number, (begin, end) in enumerate(recorded.weights, start=1):
        yield _complete("weights", UPDATES, 0, begin, end, {"update": number})


def _servers(recorded: RecordedRun) -> Events:
    sessions = recorded.sessions or [
        Session(0, -1, begin, end, "")
        for begin, end in sorted(recorded.run.timeline.generation)
    ]
    for worker in sorted({session.worker for session in sessions}):
        process = FIRST_SERVER + worker
        own = [session for session in sessions if session.worker == worker]
        yield from _named(process, f"generation server {worker}", None)
        for session, row in zip(own, rows(own), strict=True):
            arguments = {"group": session.group, "status": session.status}
            name = f"response {session.status}".rstrip()
            yield _complete(name, process, row, session.start, session.end, arguments)
        times, counts = in_flight(session.span for session in own)
        for time, count in zip(times.tolist(), counts.tolist(), strict=True):
            yield {
                "name": "requests in flight",
                "ph": "C",
                "ts": _microseconds(time),
                "pid": process,
                "args": {"requests": count},
            }


def rows(sessions: Iterable[Session]) -> list[int]:
    """The row of each session, in order of start: the lowest one that is free."""
    free: list[int] = []
    open_until: list[tuple[float, int]] = []
    placed = []
    for session in sessions:
        while open_until and open_until[0][0] <= session.start:
            heapq.heappush(free, heapq.heappop(open_until)[1])
        row = heapq.heappop(free) if free else len(open_until)
        heapq.heappush(open_until, (session.end, row))
        placed.append(row)
    return placed


def _named(process: int, name: str, row: str | None) -> Events:
    """Names of a process and of its first row, and the process's place in the order."""
    meta = {"ph": "M", "pid": process}
    yield meta | {"name": "process_name", "args": {"name": name}}
    yield meta | {"name": "process_sort_index", "args": {"sort_index": process}}
    if row is not None:
        yield meta | {"name": "thread_name", "tid": 0, "args": {"name": row}}


def _complete(
    name: str, process: int, row: int, begin: float, end: float, arguments: dict
) -> dict[str, Any]:
    start = _microseconds(begin)
    return {
        "name": name,
        "ph": "X",
        "ts": start,
        "dur": max(0, _microseconds(end) - start),
        "pid": process,
        "tid": row,
        "args": arguments,
    }


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
