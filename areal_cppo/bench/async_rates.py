"""The rates file of `areal-cppo plan`, fitted from a run.

| rate | from |
| --- | --- |
| `server.decode` | `bench rollout`'s points; else fitted: see `async_decode` |
| `trainer` | a step's time without waiting and weight updates, over its tokens |
| `weights` | the mean update; half of the pause between two looks at its end |
| `contention` | where trainer and servers share processors: what fits best |
| `reward_seconds` | the sessions' own |
| `prompt_tokens` | the mean, image tokens included |
| `response_tokens` | the histogram of lengths that the run recorded; else the mean |

Either decode curve has prefilling in it, so that the file's `prefill_tokens_per_second`
is without effect (1e9): measure `bench rollout` with prompts and responses of the run's
lengths. Its curve is that of servers with a machine to themselves. Where trainer,
rollout workers and servers share processors, the fitted one, which is of servers among
them, predicts better.

**Tokens and seconds of a step.** Where the tokens of a step vary by less than a tenth
no line can be fitted through them: then computing is taken to grow with the tokens, and
what is neither computing nor waiting nor weights is taken to be constant.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from areal_cppo.bench.async_decode import SLOWDOWNS, Exposure
from areal_cppo.bench.async_run import (
    Record,
    RecordedRun,
    Window,
    sequence_tokens,
    window,
)
from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Distribution, Empirical, Fixed
from areal_cppo.plan.rates import (
    Contention,
    Rates,
    ServerRates,
    TrainerRates,
    WeightRates,
)
from areal_cppo.report.timeline import Interval, busy_seconds, intersect, union
from areal_cppo.report.trace import COMPUTING, WAIT, WEIGHTS

# A worker looks so often whether an update is over (`rollout.servers.generation`).
_RESUME_SECONDS = 0.05
NO_PREFILL = 1e9  # tokens/s: prefilling is within the decode curve
_LEAST_SPREAD = 0.1  # of a step's tokens, for a line through them
_LEAST_STEPS = 8  # to tell how much generation slows the trainer
_LEAST_GAIN = 0.2  # share of the squared error that a slowdown must explain
_LENGTHS = 500  # values of an empirical distribution, about


class Fitted(NamedTuple):
    """Rates, and by number of a slower server its speed as a share of the fastest's."""

    rates: Rates
    speeds: dict[int, float]


def fit_rates(
    recorded: RecordedRun,
    warmup: int,
    measured: dict[str, str],
    rollout: dict[str, Any] | None = None,
) -> Fitted:
    """The rates of a run, and which of its servers are slower.

    Parameters
    ----------
    warmup
        Steps left out.
    measured
        Where the numbers come from.
    rollout
        What `bench rollout --json` wrote, for the decode curve.

    Raises
    ------
    UserError
        The run's folder does not say enough.
    """
    inside = window(recorded.metrics, warmup)
    steps, tokens = inside.steps, inside.sequence_tokens
    if tokens is None or not recorded.sessions:
        raise UserError(
            "--rates: expected a run with AReaL's statistics and traces, found "
            f"{recorded.run.folder} without; train with perf_tracer.enabled=true and "
            "perf_tracer.session_tracer.enabled=true"
        )
    count = sum(record["stats"]["ppo_actor/n_seqs"] for record in steps)
    responses = _response_tokens(inside, count)
    shares = recorded.unit == "process"
    slots = _slots(recorded)
    exposure = Exposure(recorded, inside.span, slots)
    curve = _rollout_curve(rollout, slots) if rollout else None
    decode, slowdown, speeds = exposure.fit(responses.mean, curve, shares)
    trainer, trainer_slowdown = _trainer(recorded, inside, shares)
    rewards = [s.reward_seconds for s in recorded.sessions if s.reward_seconds]
    generation, training = recorded.generation, recorded.training
    rates = Rates(
        server=ServerRates(
            gpus=max(1, generation.units // generation.servers),
            slots=slots,
            decode=decode,
            prefill_tokens_per_second=NO_PREFILL,
            request_seconds=0.0,
        ),
        trainer=trainer,
        weights=WeightRates(
            update_seconds=inside.total(WEIGHTS.metric) / len(steps),
            resume_seconds=_RESUME_SECONDS,
        ),
        contention=Contention(slowdown, trainer_slowdown),
        reward_seconds=statistics.fmean(rewards) if rewards else 0.0,
        prompt_tokens=Fixed(max(1, round(tokens / count - responses.mean))),
        response_tokens=responses,
        measured=measured
        | {
            "run": recorded.run.folder.resolve().name,
            "steps": f"{steps[0]['step']} to {steps[-1]['step']}",
            "decode": "bench rollout" if rollout else "fitted from the run's sessions",
            "trainer_ranks": str(training.servers),
        },
    )
    return Fitted(rates, speeds)


def read_rollout(path: str) -> dict[str, Any]:
    """What `bench rollout --json` wrote; a UserError unless it is that."""
    expected = "--rollout: expected a file that areal-cppo bench rollout --json wrote"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{expected}, found {path}: {error}; name another") from error
    points = document.get("points") if isinstance(document, dict) else None
    if not points or not all(
        isinstance(p, dict) and "concurrency" in p for p in points
    ):
        raise UserError(f"{expected}, found {path}, which has no points; name another")
    return document


def _slots(recorded: RecordedRun) -> int:
    """Requests that a server runs at a time."""
    slots = (recorded.run.config.get("sglang") or {}).get("max_running_requests")
    return int(slots or max(1, len(recorded.sessions)))  # else no bound is known


def _response_tokens(inside: Window, count: float) -> Distribution:
    """Of `count` responses, by the recorded histogram (bins' middles), shifted to the
    exact mean."""
    mean = sum(
        record["response_tokens"] * record["stats"]["ppo_actor/n_seqs"]
        for record in inside.steps
    )
    mean /= count
    counts: Counter[float] = Counter()
    for record in inside.steps:
        histogram = record.get("response_tokens_histogram", {})
        counts.update({float(length): n for length, n in histogram.items()})
    total = counts.total()
    if not total:
        return Fixed(max(1, round(mean)))
    off = mean - sum(length * n for length, n in counts.items()) / total
    scale = min(1.0, _LENGTHS / total)
    values = [
        max(1, round(length + off))
        for length, n in sorted(counts.items())
        for _ in range(max(1, round(n * scale)))
    ]
    return Empirical(tuple(values))


def _rollout_curve(
    rollout: dict[str, Any], slots: int
) -> tuple[tuple[float, float], ...]:
    points = {
        min(point["concurrency"], slots): point["tokens_per_second"]
        for point in sorted(rollout["points"], key=lambda p: p["concurrency"])
        if not point["weight_update"] and point["complete"]
    }
    if not points:
        raise UserError(
            "--rollout: expected complete points without a weight update, found none; "
            "measure again"
        )
    servers = len(rollout.get("servers", [])) or 1
    return tuple(
        (running / servers, rate / servers) for running, rate in sorted(points.items())
    )


def _trainer(
    recorded: RecordedRun, inside: Window, shares: bool
) -> tuple[TrainerRates, float]:
    """Seconds of a step by its tokens, without contention, and by what generation slows
    the trainer; `shares`: whether they share processors."""
    steps, ranks = inside.steps, recorded.training.servers
    computing = np.array([_computing(record) for record in steps])
    tokens = np.array([sequence_tokens(record) for record in steps])
    generating = union(session.span for session in recorded.sessions)
    overlap = np.array([_overlap(recorded, record, generating) for record in steps])
    slowdown = _slowdown(computing / tokens, overlap) if shares else 1.0
    free = computing * (1 - overlap + overlap / slowdown)
    away = (WAIT.metric, WEIGHTS.metric)
    other = [
        record["step_seconds"] - busy - sum(record.get(name, 0.0) for name in away)
        for record, busy in zip(steps, computing)
    ]
    each = tokens / ranks
    constant, slope = 0.0, free.sum() / each.sum()
    if len(steps) > 2 and each.std() > _LEAST_SPREAD * each.mean():
        (constant, slope), _ = nnls(np.stack([np.ones(len(each)), each], 1), free)
    rates = TrainerRates(
        gpus=max(1, recorded.training.units // ranks),
        step_seconds=float(constant + np.maximum(other, 0.0).mean()),
        token_seconds=float(slope),
        sync_seconds=0.0,
    )
    return rates, slowdown


def _computing(record: Record) -> float:
    return sum(phase.seconds(record) or 0.0 for phase in COMPUTING)


def _overlap(
    recorded: RecordedRun, record: Record, generating: list[Interval]
) -> float:
    """Share of a step's computing in which anything was generated."""
    step = record["seconds"] - record["step_seconds"], record["seconds"]
    computing = intersect(recorded.run.timeline.training, [step])
    if not computing:
        return 0.0
    return busy_seconds(intersect(computing, generating)) / busy_seconds(computing)


def _slowdown(rates: np.ndarray, overlap: np.ndarray) -> float:
    """The value that leaves seconds a token (`rates`) the most alike; 1 where too few
    steps tell, or too little is gained."""
    if len(rates) < _LEAST_STEPS:
        return 1.0

    def error(slowdown: float) -> float:
        free = rates * (1 - overlap + overlap / slowdown)
        return float(free.var() / free.mean() ** 2)

    best = min(map(float, SLOWDOWNS), key=error)
    return best if error(best) < (1 - _LEAST_GAIN) * error(1.0) else 1.0
