"""What `bench train-step` has to say: ratios, a table, a dict for JSON.

A ratio of times is the median over repeats of each repeat's own ratio: arms of one
repeat ran one after the other, so that what slows the machine for minutes cancels out.
Ratios of counts and of memory are those of the counting runs.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from typing import Any

import torch

from areal_cppo import __version__
from areal_cppo.bench.arms import attention
from areal_cppo.bench.train_step import Measured
from areal_cppo.bench.workload import Workload

_BASE = "a"
# By name: the arms of numerator and denominator.
RATIOS = {
    "cppo_over_stock_grpo": ("d", "a"),
    "cppo_over_stock_grpo_apart": ("d", "a*"),
    "cppo_over_published_cppo": ("d", "b"),
    "cppo_over_grpo": ("d", "c"),
    "grpo_over_stock_grpo": ("c", "a"),
    "grpo_over_stock_grpo_apart": ("c", "a*"),
    "anchor_only_over_stock_grpo": ("e", "a"),
    "cppo_without_shared_prompts_over_stock_grpo": ("d-share_prompts", "a"),
    "published_cppo_over_stock_grpo": ("b", "a"),
}
_COUNTS = ("flops", "tokens", "patches", "peak_bytes")


def ratio(one: Measured, other: Measured, quantity: str) -> float | None:
    """Of two arms; `quantity` is `seconds` or one that was counted."""
    if quantity != "seconds":
        if one.counts is None or other.counts is None:
            return None
        divisor = getattr(other.counts, quantity)
        return getattr(one.counts, quantity) / divisor if divisor else None
    pairs = zip(one.seconds, other.seconds)
    ratios = [x / y for x, y in pairs]
    return statistics.median(ratios) if ratios else None


def describe_arms(
    results: Sequence[Measured], peak_tflops: float | None = None
) -> list[dict[str, Any]]:
    """A dict an arm: its numbers, and their ratios to the stock actor's.

    One that failed has `failure`, in words, and what was measured before.
    """
    by_letter = {result.arm.letter: result for result in results}
    base = by_letter.get(_BASE)
    arms = []
    for result in results:
        counts, seconds = result.counts, result.seconds
        arm = {
            "letter": result.arm.letter,
            "name": result.arm.name,
            "seconds": {
                "median": result.median,
                "min": min(seconds, default=None),
                "max": max(seconds, default=None),
                "all": seconds,
            },
            **{
                name.replace("peak_bytes", "peak_memory_bytes"): getattr(
                    counts, name, None
                )
                for name in ("peak_bytes", "tokens", "patches", "flops")
            },
        }
        if result.failure is not None:
            arm["failure"] = result.failure
        if base is not None and base.counts is not None:
            arm["ratios"] = {
                quantity.replace("peak_bytes", "peak_memory_bytes"): ratio(
                    result, base, quantity
                )
                for quantity in ("seconds", *_COUNTS)
            }
        if peak_tflops is not None and result.median:
            arm["peak_share"] = counts.flops / result.median / (peak_tflops * 1e12)
        arms.append(arm)
    return arms


def describe_ratios(results: Sequence[Measured]) -> dict[str, float | None]:
    """The ratios that matter, by name; `None` where an arm was not measured."""
    by_letter = {result.arm.letter: result for result in results}

    def of(letters: tuple[str, str], quantity: str) -> float | None:
        if not by_letter.keys() >= set(letters):
            return None
        return ratio(*(by_letter[letter] for letter in letters), quantity)

    ratios = {name: of(letters, "seconds") for name, letters in RATIOS.items()}
    for name, quantity in (("peak_memory", "peak_bytes"), ("flops", "flops")):
        ratios[f"{name}_cppo_over_stock_grpo"] = of(("d", "a"), quantity)
    return ratios


def describe(
    workload: Workload,
    model: str,
    results: Sequence[Measured],
    peak_tflops: float | None = None,
) -> dict[str, Any]:
    """One workload's `workload`, `arms` and `ratios`."""
    return {
        "workload": describe_workload(workload, model),
        "arms": describe_arms(results, peak_tflops),
        "ratios": describe_ratios(results),
    }


def describe_workload(workload: Workload, model: str) -> dict[str, Any]:
    """The knobs, and what follows from them."""
    lengths = workload.response_lengths()
    return asdict(workload) | {
        "model": model,
        "samples": workload.samples,
        "image_tokens": workload.image_tokens,
        "prompt_tokens": workload.prompt_tokens,
        "response_tokens": sum(lengths),
        "sequence_tokens": workload.samples * workload.prompt_tokens + sum(lengths),
        "positive_responses": sum(workload.positives()),
    }


def describe_run() -> dict[str, Any]:
    """Where, when, with what and how: `machine`, `versions`, `date`, `command`."""
    cuda = torch.cuda.is_available()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "memory_gib": round(pages / 2**30, 1),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "attention": attention(),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "areal-cppo": __version__,
            **{
                name: metadata.version(name)
                for name in ("areal", "torch", "transformers")
            },
        },
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["areal-cppo", *sys.argv[1:]]),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        names = (line.partition(":")[2] for line in lines if "model name" in line)
        return next(names, platform.machine()).strip()


_HEADINGS = ("", "arm", "seconds (min-max)", "memory", "tokens", "patches", "TFLOP")


def table(arms: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, each number with its ratio to the stock actor's; below, why an
    arm was left out."""
    rows = [_HEADINGS]
    for arm in arms:
        seconds, ratios = arm["seconds"], arm.get("ratios", {})
        timed = "-"
        if seconds["all"]:
            spread = f"({seconds['min']:.2f}-{seconds['max']:.2f})"
            timed = f"{seconds['median']:.2f} {spread}"

        def cell(text: str, quantity: str, of: dict = ratios) -> str:
            value = of.get(quantity)
            return text if value is None else f"{text} {f'x{value:.2f}':>6}"

        name = arm["name"] + _share(arm)
        if arm["flops"] is None:
            rows.append((arm["letter"], name, *"-" * 5))
            continue
        rows.append(
            (
                arm["letter"],
                name,
                cell(timed, "seconds"),
                cell(
                    f"{arm['peak_memory_bytes'] / 2**30:.2f} GiB", "peak_memory_bytes"
                ),
                cell(f"{arm['tokens']:,}", "tokens"),
                cell(f"{arm['patches']:,}", "patches"),
                cell(f"{arm['flops'] / 1e12:.3f}", "flops"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    failed = [arm for arm in arms if "failure" in arm]
    lines += [f"{arm['letter']}: {arm['failure']}" for arm in failed]
    return "\n".join(lines)


def _share(arm: dict[str, Any]) -> str:
    share = arm.get("peak_share")
    return "" if share is None else f" ({share:.0%} of peak)"
