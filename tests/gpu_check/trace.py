"""What a profile says: idle time, kinds of kernels, waits for the GPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

KERNELS = 25  # in the results, those that take longest
# By parts of kernels' names, lower case; the first that fits counts.
KINDS = {
    "attention": ("flash", "fmha", "softmax_backward_data", "mem_eff", "cutlassf"),
    "index_add": ("indexfunc", "index_add", "indexadd"),
    "index_select": ("indexselect", "index_select", "vectorized_gather"),
    "optimizer": ("adam", "multi_tensor_apply", "multitensorapply"),
    "communication": ("nccl",),
    "matrix products": ("gemm", "cublas", "nvjet", "cutlass", "xmma", "gemv"),
    "copies": ("memcpy", "memset", "copy"),
    "softmax and logits": ("softmax", "logsoftmax"),
    "reductions": ("reduce",),
    "elementwise": ("elementwise",),
}
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
)


class Event(NamedTuple):
    """Something that ran; microseconds."""

    name: str
    start: float
    end: float
    on_gpu: bool


def events_of(profile: Any) -> list[Event]:
    """Of a `torch.profiler.profile` that has ended."""
    from torch.autograd import DeviceType

    return [
        Event(
            event.name,
            event.time_range.start,
            event.time_range.end,
            event.device_type == DeviceType.CUDA,
        )
        for event in profile.events()
    ]


def summarize(events: Sequence[Event], seconds: float) -> dict[str, Any]:
    """Figures of a step that took `seconds`.

    Shares are of the time in which the GPU was busy, idle time is of the step's.
    """
    on_gpu = [event for event in events if event.on_gpu]
    busy = union(on_gpu)
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    calls = Counter(event.name for event in on_gpu)
    for event in on_gpu:
        by_kind[kind_of(event.name)] += event.end - event.start
        by_name[event.name] += event.end - event.start
    longest = sorted(by_name.items(), key=lambda pair: -pair[1])[:KERNELS]
    return {
        "step_seconds": seconds,
        "busy_seconds": busy / 1e6,
        "idle_share": 1 - busy / 1e6 / seconds if on_gpu else None,
        "launches": len(on_gpu),
        "waits": waits(events),
        "share_by_kind": {
            kind: time / busy
            for kind, time in sorted(by_kind.items(), key=lambda pair: -pair[1])
        },
        "longest_kernels": [
            {"name": name[:160], "ms": time / 1000, "calls": calls[name]}
            for name, time in longest
        ],
    }


def union(events: Iterable[Event]) -> float:
    """Microseconds in which at least one of them ran."""
    total, reached = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def kind_of(name: str) -> str:
    """Which of `KINDS` a kernel belongs to."""
    lower = name.lower()
    for kind, parts in KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return "other"


def waits(events: Sequence[Event]) -> dict[str, dict[str, float]]:
    """Calls of the runtime in which the CPU waits for the GPU, and their time."""
    found: dict[str, dict[str, float]] = {}
    for event in events:
        if event.on_gpu or event.name not in WAITS:
            continue
        entry = found.setdefault(event.name, {"calls": 0, "milliseconds": 0.0})
        entry["calls"] += 1
        entry["milliseconds"] += (event.end - event.start) / 1000
    return found
