"""What AReaL's tracers wrote of a run: each response, and what the trainer did when.

The controller's phases are on its tracer's clock, the rollout workers' sessions on the
wall clock. Here all times are seconds of training: 0 is when training began, and the
time between a stop and going on is left out. So is what a run that was cut off had done
since the checkpoint from which it went on: it was done again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from areal_cppo.folder import CLOCK, read_lines
from areal_cppo.report.timeline import Interval

ACCEPTED = "accepted"  # the fate of a response that a group could use


class Phase(NamedTuple):
    """What the trainer does in a step, by each of its names.

    Attributes
    ----------
    name
        In words.
    timed
        AReaL's, of its seconds in a step's statistics: `timeperf/...`.
    traced
        AReaL's, in the controller's trace: `train....`.
    metric
        Of its seconds in `metrics.jsonl`.
    """

    name: str
    timed: str
    traced: str
    metric: str

    def seconds(self, record: Mapping[str, Any]) -> float | None:
        """Its time in a step of `metrics.jsonl`; None: the step had none."""
        return record.get("stats", {}).get(f"timeperf/{self.timed}")


WAIT = Phase("rollout wait", "rollout", "rollout", "seconds_rollout")
COMPUTING = (
    Phase("log-probs", "recompute_logp", "recompute_logp", "seconds_logprobs"),
    Phase("reference log-probs", "ref_logp", "ref_logp", "seconds_reference"),
    Phase("advantages", "compute_advantage", "compute_advantage", "seconds_advantages"),
    Phase("update", "train_step", "ppo_update", "seconds_update"),
)
WEIGHTS = Phase("weights", "update_weights", "update_weights", "seconds_weights")
PHASES = (WAIT, *COMPUTING, WEIGHTS)


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
        """Start and end."""
        return self.start, self.end


class Trace(NamedTuple):
    """A run's traces.

    Attributes
    ----------
    sessions
        Responses that came to an end, in order of their start.
    phases
        Start, end and AReaL's name (`traced`) of what the controller did.
    resumed_at
        Where the run was gone on with.
    """

    sessions: list[Session]
    phases: list[tuple[float, float, str]]
    resumed_at: list[float]


@dataclass(frozen=True)
class _Life:
    """A time in which training went on: from its begin, or from a checkpoint."""

    unix: float  # seconds, when it began
    origin: float  # what the tracer's clock showed then, microseconds
    offset: float  # seconds that training had taken before
    end: float = math.inf  # where the next one took its work up again


def read_trace(folder: Path, config: Mapping[str, Any]) -> Trace | None:
    """The traces of a run's folder; `None`: there are none.

    Parameters
    ----------
    folder
        Searched, too, where the place that the configuration names isn't there: a
        folder from another machine has the traces within.
    config
        The run's `config.yaml`.
    """
    traces = _trace_folder(folder, config.get("perf_tracer"))
    if traces is None:
        return None
    files = sorted(traces.glob("**/master/traces*.jsonl"))
    events = [event for file in files for event in read_lines(file)]
    lives = _lives(events)
    if not lives:
        return None
    resumed_at = [life.offset for life in lives[1:]]
    return Trace(_sessions(traces, lives), _phases(events, lives), resumed_at)


def _trace_folder(folder: Path, tracer: Any) -> Path | None:
    if not isinstance(tracer, Mapping):
        return None
    name = f"logs/*/{tracer.get('experiment_name')}/{tracer.get('trial_name')}"
    places = (Path(str(tracer.get("fileroot"))), folder / "areal", folder)
    return next((found for place in places for found in place.glob(name)), None)


def _lives(events: list[dict[str, Any]]) -> list[_Life]:
    """From the controller's clock events, in order."""
    begins = [
        (event["args"]["unix_seconds"], event["ts"], event["args"].get("offset", 0.0))
        for event in events
        if event.get("name") == CLOCK
    ]
    return [
        _Life(*begin, min((later[2] for later in begins[i + 1 :]), default=math.inf))
        for i, begin in enumerate(begins)
    ]


def _sessions(traces: Path, lives: list[_Life]) -> list[Session]:
    sessions = []
    for file in sorted(traces.glob("**/sessions*.jsonl")):
        number = re.search(r"-r(\d+)", file.stem)
        worker = int(number[1]) if number else 0
        for record in read_lines(file):
            for phase in record.get("phases", {}).get("generate", []):
                times = phase.get("start_ts"), phase.get("end_ts")
                if None in times:
                    continue  # still under way when the run ended
                begun = [life for life in lives if life.unix <= times[0]]
                life = begun[-1] if begun else lives[0]
                start, end = (time - life.unix + life.offset for time in times)
                end = min(end, life.end)
                if start < end:
                    sessions.append(_session(worker, record, start, end))
    return sorted(sessions, key=lambda session: session.span)


def _session(worker: int, record: dict[str, Any], start: float, end: float) -> Session:
    status, reward = str(record.get("status", "")), record.get("reward_s")
    return Session(worker, record.get("task_id", -1), start, end, status, reward)


def _phases(
    events: list[dict[str, Any]], lives: list[_Life]
) -> list[tuple[float, float, str]]:
    phases, following = [], iter(lives)
    life = lives[0]
    for event in events:
        name = str(event.get("name", ""))
        if name == CLOCK:
            life = next(following)
        if event.get("ph") == "X" and name.startswith("train."):
            start = life.offset + (event["ts"] - life.origin) / 1e6
            end = start + event["dur"] / 1e6
            if end <= life.end:
                phases.append((start, end, name.removeprefix("train.")))
    return sorted(phases)
