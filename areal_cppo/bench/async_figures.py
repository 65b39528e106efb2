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

**CPL's share** is the time to draw views and of their forward passes. Their backward
passes are part of the one backward pass and can't be told apart by time; the share of
tokens says what to expect of them.

**Model FLOP/s utilisation** counts 6 operations a parameter and token of an update
(those of views included), 2 of a pass for log-probs, and 2 of generation, and divides
by what the GPUs could have done in the window (arXiv 2204.02311, appendix B, without
attention's own term).
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from areal_cppo.bench.async_run import (
    Record,
    RecordedRun,
    Window,
    sequence_tokens,
    window,
)
from areal_cppo.bench.step_parts import step_parts
from areal_cppo.report.timeline import Interval, busy_seconds, intersect, union
from areal_cppo.report.trace import ACCEPTED, COMPUTING, WAIT, WEIGHTS

DEFAULT_WARMUP = 2  # steps
_CPL = ("seconds_perturb", "seconds_negative_view", "seconds_positive_view")


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
    inside = window(recorded.metrics, warmup)
    steps, seconds = inside.steps, inside.seconds
    before, after = inside.rise("samples")
    tokens = sum(_response_tokens(record) for record in steps)
    resumed = [moment for moment in recorded.resumed_at if moment >= inside.span[0]]
    return {
        "steps": {
            "first": steps[0]["step"],
            "last": steps[-1]["step"],
            "number": len(steps),
            "warmup": warmup,
            "resumed": len(resumed),
        },
        "window_seconds": list(inside.span),
        "seconds": seconds,
        "step_seconds": _spread([record["step_seconds"] for record in steps]),
        "samples": after - before,
        "samples_per_second": (after - before) / seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "unit": recorded.unit,
        "units": {
            "generation": recorded.generation.units,
            "training": recorded.training.units,
        },
        "stages": _stages(recorded, inside, tokens),
        "parts": step_parts(inside),
        "trainer": _trainer(inside),
        "generation": _generation(recorded, inside.span),
        "weight_update_seconds": _spread(inside.times(WEIGHTS)),
        "staleness": _staleness(steps),
        "interrupted": _interrupted(recorded, inside),
        "discarded": _discarded(inside),
        "cpl": _cpl_share(inside),
        "mfu": _utilisation(recorded, inside, tokens, peak_tflops, parameters),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _response_tokens(record: Record) -> int:
    histogram = record.get("staleness_histogram")
    if histogram:
        return sum(histogram.values())
    return round(record["tokens_per_second"] * record["step_seconds"])


def _stages(recorded: RecordedRun, inside: Window, tokens: int) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    busy = _busy(recorded, inside.span)
    if busy:
        seconds = statistics.fmean(busy)
        stages["generation"] = _stage(seconds, tokens, recorded.generation.units)
    for phase in COMPUTING:
        if seconds := sum(inside.times(phase)):
            units = recorded.training.units
            stages[phase.name] = _stage(seconds, inside.sequence_tokens, units)
    return stages


def _stage(seconds: float, tokens: float | None, units: int) -> dict[str, Any]:
    rate = tokens / seconds if tokens is not None and seconds else None
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": rate,
        "tokens_per_second_per_unit": None if rate is None else rate / units,
    }


def _trainer(inside: Window) -> dict[str, float]:
    idle, weights = (sum(inside.times(phase)) for phase in (WAIT, WEIGHTS))
    computing = sum(sum(inside.times(phase)) for phase in COMPUTING)
    parts = {"idle": idle, "computing": computing, "weights": weights}
    parts["other"] = max(0.0, inside.seconds - sum(parts.values()))
    return {f"{name}_share": part / inside.seconds for name, part in parts.items()}


def _busy(recorded: RecordedRun, span: Interval) -> list[float]:
    """Seconds of the window in which each server was busy; empty: not known."""
    busy = []
    for spans in recorded.requests.values():
        inside = intersect(spans, [span])
        paused = busy_seconds(intersect(inside, recorded.weights))
        busy.append(busy_seconds(inside) - paused)
    # A server that was never asked has no file.
    missing = recorded.generation.servers - len(busy) if recorded.sessions else 0
    return busy + [0.0] * max(0, missing)


def _generation(recorded: RecordedRun, span: Interval) -> dict[str, Any] | None:
    busy, length = _busy(recorded, span), span[1] - span[0]
    if not busy or length <= 0:
        return None
    shares = [1 - seconds / length for seconds in busy]
    idle = statistics.fmean(shares)
    paused = busy_seconds(intersect(recorded.weights, [span])) / length
    open_for = sum(
        max(0.0, min(end, span[1]) - max(start, span[0]))
        for spans in recorded.requests.values()
        for start, end in spans
    )
    return {
        "idle_share": idle,
        "paused_share": paused,
        "no_request_share": max(0.0, idle - paused),
        "mean_in_flight": open_for / length,
        "idle_share_by_server": shares,
        "by_server": bool(recorded.sessions),
    }


def _staleness(steps: Iterable[Record]) -> dict[str, Any] | None:
    tokens: Counter[int] = Counter()
    for record in steps:
        histogram = record.get("staleness_histogram", {})
        tokens.update({int(versions): n for versions, n in histogram.items()})
    if not tokens.total():
        return None
    return {
        "mean": sum(k * n for k, n in tokens.items()) / tokens.total(),
        "max": max(tokens),
        "tokens": {str(versions): n for versions, n in sorted(tokens.items())},
    }


def _interrupted(recorded: RecordedRun, inside: Window) -> dict[str, Any] | None:
    name = "interrupted_responses"
    known = [record[name] for record in inside.steps if name in record]
    if not known and not recorded.sessions:
        return None
    found: dict[str, Any] = {"trained_on": int(sum(known)) if known else None}
    if not recorded.sessions:
        return found | {"responses": None, "resumed": None}
    start, end = inside.span
    begins = [begin for begin, _ in union(recorded.weights) if start <= begin < end]
    hit = [
        session
        for session in recorded.sessions
        if bisect_right(begins, session.start) < bisect_left(begins, session.end)
    ]
    resumed = sum(session.status == ACCEPTED for session in hit)
    return found | {"responses": len(hit), "resumed": resumed}


def _discarded(inside: Window) -> dict[str, int]:
    """What was refused in the window, by reason; `group_dropped` counts groups."""
    start, end = inside.rise("refused", {})
    counts = {reason: int(n - start.get(reason, 0)) for reason, n in end.items()}
    start, end = inside.rise("problems_given_up")
    return counts | {"problems_given_up": int(end - start)}


def _cpl_share(inside: Window) -> dict[str, float | None] | None:
    """None: without CPL."""
    timed = [r for r in inside.steps if any(name in r for name in _CPL)]
    if not timed:
        return None
    steps = Window(None, timed)
    cost, update = sum(map(steps.total, _CPL)), steps.total("seconds_update")
    views, anchor = steps.total("cpl_view_tokens"), steps.sequence_tokens
    return {
        "seconds": cost,
        "share_of_step": cost / inside.seconds,
        "share_of_update": cost / update if update else None,
        "share_of_tokens": None if anchor is None else views / (views + anchor),
    }


def _utilisation(
    recorded: RecordedRun,
    inside: Window,
    tokens: int,
    peak_tflops: float | None,
    parameters: int | None,
) -> dict[str, float] | None:
    """Of trainer, servers and all; None where there is no GPU, or its peak isn't known;
    `tokens` are those of the responses."""
    whole = inside.sequence_tokens
    if None in (peak_tflops, parameters, whole) or recorded.unit != "GPU":
        return None
    passes = sum(
        sequence_tokens(record)
        for record in inside.steps
        for phase in COMPUTING[:2]  # log-probs, the reference policy's too
        if phase.seconds(record) is not None
    )
    views = inside.total("cpl_view_tokens")
    training = parameters * (6 * (whole + views) + 2 * passes)
    generation = parameters * 2 * whole
    could = inside.seconds * peak_tflops * 1e12
    trainers, servers = recorded.training.units, recorded.generation.units
    return {
        "training": training / could / trainers,
        "generation": generation / could / servers,
        "all": (training + generation) / could / (trainers + servers),
        "tokens_per_second_per_gpu": tokens / inside.seconds / (trainers + servers),
        "peak_tflops": peak_tflops,
        "parameters": parameters,
    }
