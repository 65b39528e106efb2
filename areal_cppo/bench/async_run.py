"""What a run's folder says of who was busy when: the input of `bench async`.

Three sources, each of which may be missing but the first:

| file | says |
| --- | --- |
| `metrics.jsonl` | of each step its wall time, what the trainer did in it, and counts |
| `timeline.json` | spans of generation and of weight updates |
| AReaL's traces | each response's own span and fate, and the controller's phases |

All times are seconds of training, as in `areal_cppo.report.trace`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from areal_cppo.errors import UserError
from areal_cppo.report.runs import RunContents, load_run
from areal_cppo.report.timeline import Interval
from areal_cppo.report.trace import WEIGHTS, Phase, Session, Trace, read_trace

Record = dict[str, Any]  # of a step, a line of `metrics.jsonl`


@dataclass(frozen=True)
class Side:
    """Who generates, or who trains."""

    units: int  # GPUs, or processes where there is no GPU
    servers: int  # processes that answer or train together, each of `units / servers`

    @classmethod
    def of(cls, config: dict[str, Any], name: str) -> Side:
        """By the configuration's `backend`, such as `fsdp:d4p1t2`.

        Of `megatron:(attn:...|ffn:...)` the experts are on the GPUs of the rest.
        """
        backend = str((config.get(name) or {}).get("backend") or "")
        dense = backend.partition(":")[2].partition("|")[0]
        sizes = {kind: int(n) for kind, n in re.findall(r"([dtpc])(\d+)", dense)}
        return cls(math.prod(sizes.values()), sizes.get("d", 1))


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder, read."""

    run: RunContents
    sessions: list[Session] = field(default_factory=list)
    phases: list[tuple[float, float, str]] = field(default_factory=list)
    unit: str = "process"  # or GPU
    generation: Side = Side(1, 1)
    training: Side = Side(1, 1)
    resumed_at: list[float] = field(default_factory=list)  # where it went on

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A record a step."""
        return self.run.metrics

    @property
    def weights(self) -> list[Interval]:
        """Spans of weight updates."""
        traced = [phase[:2] for phase in self.phases if phase[2] == WEIGHTS.traced]
        return traced or [span[:2] for span in self.run.timeline.weights]

    @property
    def requests(self) -> dict[int, list[Interval]]:
        """Spans of open requests by server; where it isn't known whose they are, all in
        one, and where nothing is known none."""
        spans: dict[int, list[Interval]] = {}
        for session in self.sessions:
            spans.setdefault(session.worker, []).append(session.span)
        whole = [span[:2] for span in self.run.timeline.generation]
        return spans or ({0: whole} if whole else {})


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
    trace = read_trace(folder, run.config) or Trace([], [], [])
    cluster = run.config.get("cluster") or {}
    return RecordedRun(
        run,
        trace.sessions,
        trace.phases,
        unit="GPU" if cluster.get("n_gpus_per_node") else "process",
        generation=Side.of(run.config, "rollout"),
        training=Side.of(run.config, "actor"),
        resumed_at=trace.resumed_at,
    )


class Window(NamedTuple):
    """The steps that count.

    Attributes
    ----------
    before
        The last step that is left out; None: none is.
    steps
        Those that count, at least one.
    """

    before: Record | None
    steps: list[Record]

    @property
    def span(self) -> Interval:
        """Start and end, seconds of training."""
        start = self.before["seconds"] if self.before else 0.0
        return start, self.steps[-1]["seconds"]

    @property
    def seconds(self) -> float:
        """Wall time of the steps."""
        return self.total("step_seconds")

    @property
    def sequence_tokens(self) -> float | None:
        """Tokens of the steps' sequences, prompts included; None: not recorded."""
        counts = [sequence_tokens(record) for record in self.steps]
        return None if None in counts else sum(counts)

    def total(self, name: str) -> float:
        """Of a metric that not every step need have."""
        return sum(record.get(name, 0.0) for record in self.steps)

    def rise(self, name: str, default: Any = 0) -> tuple[Any, Any]:
        """A metric that counts from the run's start: before the window, at its end."""
        return (self.before or {}).get(name, default), self.steps[-1].get(name, default)

    def times(self, phase: Phase) -> list[float]:
        """Seconds of a phase in each step that had it."""
        times = (phase.seconds(record) for record in self.steps)
        return [seconds for seconds in times if seconds is not None]


def window(metrics: Sequence[Record], warmup: int) -> Window:
    """A run's steps without the first `warmup`; a UserError if none is left."""
    if warmup < 0:
        raise UserError(f"--warmup: expected a number >= 0, found {warmup}")
    if len(metrics) <= warmup:
        raise UserError(
            f"--warmup: expected fewer than the run's {len(metrics)} steps, found "
            f"{warmup}; lower it, or train longer"
        )
    return Window(metrics[warmup - 1] if warmup else None, list(metrics[warmup:]))


def sequence_tokens(record: Record) -> float | None:
    """Tokens of a step's sequences, prompts included; None: not recorded."""
    stats = record.get("stats", {})
    names = "ppo_actor/n_seqs", "ppo_actor/seq_len/avg"
    if not all(name in stats for name in names):
        return None
    return stats[names[0]] * stats[names[1]]
