"""Where a step runs and how large it is, and how it measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """What a step is given.

    Attributes
    ----------
    device
        Where to compute.
    tiny
        In miniature: proves that the script runs, and nothing else.
    scratch
        A folder that all steps of a run share and that goes with it.
    """

    device: torch.device
    tiny: bool
    scratch: Path

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(
    work: Callable[[], object], device: torch.device, repeats: int = 10
) -> float:
    """Median time of `work`, after three runs to warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@dataclass
class Peak:
    """Bytes at the most, beyond what was there before."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Memory that what runs within takes; without a GPU, of its tensors."""
    peak = Peak()
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        wait(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    from areal_cppo.bench.counting import Counter

    with Counter() as counter:
        yield peak
    peak.bytes = counter.peak


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Without TF32, which keeps ten bits of a number's fraction."""
    convolutions = torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
