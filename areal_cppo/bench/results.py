"""What `bench train-step` has to say: ratios, a table, a dict for JSON.

A ratio of times is the median over repeats of each repeat's own ratio: arms of one
repeat ran one after the other, so that what slows the machine for minutes cancels out.
Ratios of counts and of memory are those of the counting runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from areal_cppo.bench.train_step import Measured
from areal_cppo.bench.workload import Workload
from areal_cppo.report.table import table

_STOCK, _GRPO = "a", "c"  # what arms are compared with
# By name: the arms of numerator and denominator.
RATIOS = {
    "cppo_over_stock_grpo": ("d", "a"),
    "cppo_over_stock_grpo_apart": ("d", "a*"),
    "cppo_over_published_cppo": ("d", "b"),
    "cppo_over_grpo": ("d", "c"),
    "anchor_only_over_grpo": ("e", "c"),
    "cppo_one_response_over_grpo": ("f", "c"),
    "grpo_over_stock_grpo": ("c", "a"),
    "grpo_over_stock_grpo_apart": ("c", "a*"),
    "anchor_only_over_stock_grpo": ("e", "a"),
    "cppo_without_shared_prompts_over_stock_grpo": ("d-share_prompts", "a"),
    "published_cppo_over_stock_grpo": ("b", "a"),
}
# What is counted, by its name in `Counts` and in the file.
_COUNTS = {
    "peak_bytes": "peak_memory_bytes",
    "tokens": "tokens",
    "patches": "patches",
    "flops": "flops",
}


def ratio(one: Measured, other: Measured, quantity: str) -> float | None:
    """Of two arms; `quantity` is `seconds` or one that was counted."""
    if quantity != "seconds":
        if one.counts is None or other.counts is None:
            return None
        divisor = getattr(other.counts, quantity)
        return getattr(one.counts, quantity) / divisor if divisor else None
    ratios = [x / y for x, y in zip(one.seconds, other.seconds)]
    return statistics.median(ratios) if ratios else None


def describe_arms(
    results: Sequence[Measured], peak_tflops: float | None = None
) -> list[dict[str, Any]]:
    """A dict an arm: its numbers, their `ratios` to the stock actor's, and `to_grpo`,
    those to our own GRPO's.

    One that failed has `failure`, in words, and what was measured before.
    """
    bases = {
        name: each
        for name, letter in (("ratios", _STOCK), ("to_grpo", _GRPO))
        for each in results
        if each.arm.letter == letter and each.counts is not None
    }
    return [_describe_arm(each, bases, peak_tflops) for each in results]


def _describe_arm(
    result: Measured, bases: Mapping[str, Measured], peak_tflops: float | None
) -> dict[str, Any]:
    counts, seconds = result.counts, result.seconds
    arm: dict[str, Any] = {
        "letter": result.arm.letter,
        "name": result.arm.name,
        "seconds": {
            "median": result.median,
            "min": min(seconds, default=None),
            "max": max(seconds, default=None),
            "all": seconds,
        },
    }
    arm |= {name: getattr(counts, count, None) for count, name in _COUNTS.items()}
    if result.failure is not None:
        arm["failure"] = result.failure
    quantities = {"seconds": "seconds"} | _COUNTS
    for key, base in bases.items():
        arm[key] = {
            name: ratio(result, base, quantity) for quantity, name in quantities.items()
        }
    if peak_tflops is not None and result.median:
        arm["peak_share"] = counts.flops / result.median / (peak_tflops * 1e12)
    return arm


def describe_ratios(results: Sequence[Measured]) -> dict[str, float | None]:
    """The ratios that matter, by name; `None` where an arm was not measured."""
    by_letter = {result.arm.letter: result for result in results}

    def of(one: str, other: str, quantity: str = "seconds") -> float | None:
        if not {one, other} <= by_letter.keys():
            return None
        return ratio(by_letter[one], by_letter[other], quantity)

    return {name: of(*letters) for name, letters in RATIOS.items()} | {
        "peak_memory_cppo_over_stock_grpo": of("d", "a", "peak_bytes"),
        "flops_cppo_over_stock_grpo": of("d", "a", "flops"),
        "flops_cppo_over_grpo": of("d", "c", "flops"),
        "flops_one_response_over_grpo": of("f", "c", "flops"),
    }


def describe(
    workload: Workload,
    model: str,
    results: Sequence[Measured],
    peak_tflops: float | None = None,
) -> dict[str, Any]:
    """One workload's `workload` (the knobs, and what follows from them), `arms` and
    `ratios`."""
    follows = {
        "model": model,
        "samples": workload.samples,
        "image_tokens": workload.image_tokens,
        "prompt_tokens": workload.prompt_tokens,
        "response_tokens": sum(workload.response_lengths()),
        "sequence_tokens": workload.sequence_tokens,
        "positive_responses": sum(workload.positives()),
    }
    return {
        "workload": asdict(workload) | follows,
        "arms": describe_arms(results, peak_tflops),
        "ratios": describe_ratios(results),
    }


_HEADINGS = ("", "arm", "seconds (min-max)", "memory", "tokens", "patches", "TFLOP")
_HEADINGS += ("to (c): time", "TFLOP")


def arms_table(arms: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, each number with its ratio to the stock actor's, and the ratios
    to our own GRPO (c); below, why an arm was left out."""
    failed = [f"{arm['letter']}: {arm['failure']}" for arm in arms if "failure" in arm]
    return "\n".join([table(_HEADINGS, map(_row, arms), words=2), *failed])


def _row(arm: dict[str, Any]) -> tuple[str | None, ...]:
    seconds, ratios = arm["seconds"], arm.get("ratios", {})
    share = arm.get("peak_share")
    name = arm["name"] + ("" if share is None else f" ({share:.0%} of peak)")
    if arm["flops"] is None:
        return arm["letter"], name, *[None] * 7
    timed = "-"
    if seconds["all"]:
        spread = f"({seconds['min']:.2f}-{seconds['max']:.2f})"
        timed = f"{seconds['median']:.2f} {spread}"
    cells = {
        "seconds": timed,
        "peak_memory_bytes": f"{arm['peak_memory_bytes'] / 2**30:.2f} GiB",
        "tokens": f"{arm['tokens']:,}",
        "patches": f"{arm['patches']:,}",
        "flops": f"{arm['flops'] / 1e12:.3f}",
    }
    for quantity, text in cells.items():
        ratio = ratios.get(quantity)
        if ratio is not None:
            cells[quantity] = f"{text} {f'x{ratio:.2f}':>6}"
    to_grpo = [arm.get("to_grpo", {}).get(name) for name in ("seconds", "flops")]
    beside = (None if ratio is None else f"x{ratio:.2f}" for ratio in to_grpo)
    return arm["letter"], name, *cells.values(), *beside
