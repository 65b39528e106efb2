"""The figures of `bench async`, and what each of them means.

**Window.** The first `warmup` steps are left out: the first waits for its responses
with nothing to train on, allocators and caches are cold, and responses are not yet as
stale as they will be. The window goes from the end of the last of them to the end of
the last step; all shares and rates are of its wall time.

**Sample.** A response that was accepted and trained on in a step of the window. Its
tokens are those of the response, without the prompt. Effective samples/s and tokens/s
count these alone: what was generated and thrown away is not in them.

**Trainer.** It *computes* in log-probs, advantages and updates; it *hands over*
weights; it is *idle* while it waits for responses; the rest (checkpoints, statistics,
held-out evaluation between steps) is *other*. The four add up to the window.

**Generation.** A server is busy while at least one request is open at it and no weight
update is on; else it is idle: *paused* for an update, or with *no request*. Each
rollout worker is taken for the server it owns, and the shares are means over servers.
A server that is busy with one request counts as busy: see the mean number of requests
in flight beside it.

**A stage's tokens/s** are tokens per second in which the stage is at work, per GPU or,
where there is none, per process. Of generation they are the window's response tokens;
of the trainer's stages whole sequences, prompt (with its image tokens) and response.

**Interrupted** responses were open when a weight update began; **resumed** are those of
them that were accepted in the end. That is the most there can be: an update begins a
moment before servers are paused, and a response may just end, or not have begun. The
run's own metric `interrupted_responses` counts those trained on that have tokens of
more than one policy version.

**CPL's share** and **model FLOP/s utilisation**: `async_costs`.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from areal_cppo.bench.async_costs import cpl_share, sequence_tokens, utilisation
from areal_cppo.bench.async_run import ACCEPTED, WEIGHTS, RecordedRun
from areal_cppo.errors import UserError
from areal_cppo.report.timeline import busy_seconds, intersect, union

DEFAULT_WARMUP = 2  # steps

# What the trainer does in a step: AReaL's name of its time, and ours.
STAGES = {
    "ref_logp": "reference log-probs",
    "recompute_logp": "log-probs",
    "compute_advantage": "advantages",
    "train_step": "update",
}
_WAIT = "rollout"


def figures(
    recorded: RecordedRun,
    warmup: int = DEFAULT_WARMUP,
    peak_tflops: float | None = None,
    parameters: int | None = None,
) -> dict[str, Any]:
    """All figures of a run; what the folder doesn't say is `None`.

    Parameters
    ----------
    warmup
        Steps left out at the start.
    peak_tflops
        Of a GPU, for the model FLOP/s utilisation.
    parameters
        Of the model, likewise.

    Raises
    ------
    UserError
        No step is left.
    """
    before, steps = split(recorded.metrics, warmup)
    window = (before["seconds"] if before else 0.0, steps[-1]["seconds"])
    seconds = sum(record["step_seconds"] for record in steps)
    samples = steps[-1]["samples"] - (before["samples"] if before else 0)
    tokens = sum(_response_tokens(record) for record in steps)
    return {
        "steps": {
            "first": steps[0]["step"],
            "last": steps[-1]["step"],
            "number": len(steps),
            "warmup": len(recorded.metrics) - len(steps),
            "resumed": sum(w >= window[0] for w in recorded.resumed_at),
        },
        "window_seconds": list(window),
        "seconds": seconds,
        "step_seconds": _spread([record["step_seconds"] for record in steps]),
        "samples": samples,
        "samples_per_second": samples / seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "unit": recorded.unit,
        "units": {
            "generation": recorded.generation.units,
            "training": recorded.training.units,
        },
        "stages": _stages(recorded, steps, window, tokens),
        "trainer": _trainer(steps, seconds),
        "generation": _generation(recorded, window),
        "weight_update_seconds": _spread(_times(steps, WEIGHTS)),
        "staleness": _staleness(steps),
        "interrupted": _interrupted(recorded, steps, window),
        "discarded": _discarded(before, steps),
        "cpl": cpl_share(steps, seconds),
        "mfu": utilisation(recorded, steps, seconds, tokens, peak_tflops, parameters),
    }


def split(
    metrics: Sequence[dict[str, Any]], warmup: int
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The last step that is left out, and the steps that count."""
    if warmup < 0:
        raise UserError(f"--warmup: expected a number >= 0, found {warmup}")
    if len(metrics) <= warmup:
        raise UserError(
            f"--warmup: expected fewer than the run's {len(metrics)} steps, found "
            f"{warmup}; lower it, or train longer"
        )
    return (metrics[warmup - 1] if warmup else None), list(metrics[warmup:])


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _times(steps: Iterable[dict[str, Any]], name: str) -> list[float]:
    """AReaL's time of a phase, seconds, in each step that had it."""
    key = f"timeperf/{name}"
    return [r["stats"][key] for r in steps if key in r.get("stats", {})]


def _response_tokens(record: dict[str, Any]) -> int:
    histogram = record.get("staleness_histogram")
    if histogram:
        return sum(histogram.values())
    return round(record["tokens_per_second"] * record["step_seconds"])


def _stages(recorded, steps, window, tokens: int) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    busy = _busy(recorded, window)
    if busy is not None:
        seconds = statistics.fmean(busy)
        stages["generation"] = _stage(seconds, tokens, recorded.generation.units)
    sequences = [sequence_tokens(record) for record in steps]
    whole = None if None in sequences else sum(sequences)
    for key, name in STAGES.items():
        seconds = sum(_times(steps, key))
        if seconds:
            stages[name] = _stage(seconds, whole, recorded.training.units)
    return stages


def _stage(seconds: float, tokens: float | None, units: int) -> dict[str, Any]:
    rate = tokens / seconds if tokens is not None and seconds else None
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": rate,
        "tokens_per_second_per_unit": None if rate is None else rate / units,
    }


def _trainer(steps, seconds: float) -> dict[str, float]:
    computing = sum(sum(_times(steps, key)) for key in STAGES)
    idle, weights = (sum(_times(steps, key)) for key in (_WAIT, WEIGHTS))
    parts = {"idle": idle, "computing": computing, "weights": weights}
    parts["other"] = max(0.0, seconds - sum(parts.values()))
    return {f"{name}_share": part / seconds for name, part in parts.items()}


def _spans(recorded: RecordedRun) -> list[list[tuple[float, float]]]:
    """Spans of open requests, a list a server; all in one where it isn't known."""
    if not recorded.sessions:
        spans = [tuple(span[:2]) for span in recorded.run.timeline.generation]
        return [spans] if spans else []
    workers: dict[int, list[tuple[float, float]]] = {}
    for session in recorded.sessions:
        workers.setdefault(session.worker, []).append(session.span)
    return list(workers.values())


def _busy(recorded: RecordedRun, window) -> list[float] | None:
    """Seconds of the window in which each server was busy."""
    servers = _spans(recorded)
    if not servers:
        return None
    weights = recorded.weights
    busy = []
    for spans in servers:
        inside = intersect(spans, [window])
        paused = busy_seconds(intersect(inside, weights))
        busy.append(busy_seconds(inside) - paused)
    # A server that was never asked has no file.
    missing = recorded.generation.servers - len(busy) if recorded.sessions else 0
    return busy + [0.0] * max(0, missing)


def _generation(recorded: RecordedRun, window) -> dict[str, Any] | None:
    busy = _busy(recorded, window)
    length = window[1] - window[0]
    if busy is None or length <= 0:
        return None
    shares = [1 - seconds / length for seconds in busy]
    paused = busy_seconds(intersect(recorded.weights, [window])) / length
    spans = [span for server in _spans(recorded) for span in server]
    clipped = (
        min(end, window[1]) - max(start, window[0])
        for start, end in spans
        if end > window[0] and start < window[1]
    )
    idle = statistics.fmean(shares)
    return {
        "idle_share": idle,
        "paused_share": paused,
        "no_request_share": max(0.0, idle - paused),
        "mean_in_flight": sum(clipped) / length,
        "idle_share_by_server": shares,
        "by_server": bool(recorded.sessions),
    }


def _staleness(steps) -> dict[str, Any] | None:
    histogram: dict[int, int] = {}
    for record in steps:
        for version, count in record.get("staleness_histogram", {}).items():
            histogram[int(version)] = histogram.get(int(version), 0) + count
    total = sum(histogram.values())
    if not total:
        return None
    return {
        "mean": sum(k * n for k, n in histogram.items()) / total,
        "max": max(histogram),
        "tokens": {str(k): histogram[k] for k in sorted(histogram)},
    }


def _interrupted(recorded: RecordedRun, steps, window) -> dict[str, Any] | None:
    known = [r["interrupted_responses"] for r in steps if "interrupted_responses" in r]
    found: dict[str, Any] = {"trained_on": int(sum(known)) if known else None}
    if recorded.sessions:
        begins = [
            start
            for start, _ in union(recorded.weights)
            if window[0] <= start < window[1]
        ]
        hit = [
            session
            for session in recorded.sessions
            if bisect_right(begins, session.start) < bisect_left(begins, session.end)
        ]
        resumed = sum(session.status == ACCEPTED for session in hit)
        found |= {"responses": len(hit), "resumed": resumed}
    elif not known:
        return None
    else:
        found |= {"responses": None, "resumed": None}
    return found


def _discarded(before, steps) -> dict[str, int]:
    """What was refused in the window, by reason; `group_dropped` counts groups."""
    start = (before or {}).get("refused", {})
    end = steps[-1].get("refused", {})
    counts = {reason: int(n - start.get(reason, 0)) for reason, n in end.items()}
    given_up = "problems_given_up"
    counts[given_up] = int(steps[-1].get(given_up, 0) - (before or {}).get(given_up, 0))
    return counts
