"""What a step computes: CPL's share of it, and how much of what GPUs could do.

**CPL's share** is the time to draw views and of their forward passes. Their backward
passes are part of the one backward pass and can't be told apart by time; the share of
tokens says what to expect of them.

**Model FLOP/s utilisation** counts 6 operations a parameter and token of an update
(those of views included), 2 of a pass for log-probs, and 2 of generation, and divides
by what the GPUs could have done in the window (arXiv 2204.02311, appendix B, without
attention's own term).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from areal_cppo.bench.async_run import RecordedRun

_CPL = ("seconds_perturb", "seconds_negative_view", "seconds_positive_view")


def sequence_tokens(record: dict[str, Any]) -> float | None:
    """Tokens of a step's sequences, prompts included."""
    stats = record.get("stats", {})
    names = "ppo_actor/n_seqs", "ppo_actor/seq_len/avg"
    if not all(name in stats for name in names):
        return None
    return stats[names[0]] * stats[names[1]]


def cpl_share(
    steps: Sequence[dict[str, Any]], seconds: float
) -> dict[str, float] | None:
    """Of steps that took `seconds` together; None: without CPL."""
    timed = [record for record in steps if any(name in record for name in _CPL)]
    if not timed:
        return None
    cost = sum(record.get(name, 0.0) for record in timed for name in _CPL)
    update = sum(record.get("seconds_update", 0.0) for record in timed)
    views = sum(record.get("cpl_view_tokens", 0.0) for record in timed)
    known = [sequence_tokens(record) for record in timed]
    anchor = None if None in known else sum(known)
    return {
        "seconds": cost,
        "share_of_step": cost / seconds,
        "share_of_update": cost / update if update else None,
        "share_of_tokens": None if anchor is None else views / (views + anchor),
    }


def utilisation(
    recorded: RecordedRun,
    steps: Sequence[dict[str, Any]],
    seconds: float,
    tokens: int,
    peak_tflops: float | None,
    parameters: int | None,
) -> dict[str, float] | None:
    """Of trainer, servers and all; None where there is no GPU, or its peak isn't known.

    Parameters
    ----------
    seconds, tokens
        Wall time of the steps, and their response tokens.
    peak_tflops
        Of a GPU.
    parameters
        Of the model.
    """
    sequences = [sequence_tokens(record) for record in steps]
    if None in (peak_tflops, parameters) or None in sequences:
        return None
    if recorded.unit != "GPU":
        return None
    whole = sum(sequences)
    passes = sum(
        sequence_tokens(record)
        for record in steps
        for key in ("ref_logp", "recompute_logp")
        if f"timeperf/{key}" in record["stats"]
    )
    views = sum(record.get("cpl_view_tokens", 0.0) for record in steps)
    training = parameters * (6 * (whole + views) + 2 * passes)
    generation = parameters * 2 * whole
    could = seconds * peak_tflops * 1e12
    trainers, servers = recorded.training.units, recorded.generation.units
    return {
        "training": training / could / trainers,
        "generation": generation / could / servers,
        "all": (training + generation) / could / (trainers + servers),
        "tokens_per_second_per_gpu": tokens / seconds / (trainers + servers),
        "peak_tflops": peak_tflops,
        "parameters": parameters,
    }
