"""Each rank is bound to the cores next to its own GPU: a pretended NVML with four."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from areal.infra.platforms.cuda import CudaPlatform

from areal_cppo.patches.areal import set_numa_affinity

MIG = {2: ["MIG-11111111-aa", "MIG-22222222-bb"]}


class NVMLError(Exception):
    pass


@pytest.fixture
def bound(monkeypatch):
    """GPUs whose cores this process was bound to, by NVML's numbers."""
    bound: list[int] = []

    def part(gpu, i):
        try:
            return MIG[gpu][i]
        except (KeyError, IndexError):
            raise NVMLError from None

    def parts(gpu):
        if gpu in MIG:
            return 7  # at most, of which two are there
        raise NVMLError

    def uuid(handle):
        return f"GPU-{handle}0000000-cc" if isinstance(handle, int) else handle

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=uuid,
        nvmlDeviceGetMaxMigDeviceCount=parts,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
        nvmlDeviceSetCpuAffinity=bound.append,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    set_numa_affinity()
    return bound


@pytest.mark.parametrize(
    ("visible", "gpu"),
    [
        ("3", 3),
        ("2,1", 2),
        ("GPU-30000000-cc", 3),
        ("GPU-1", 1),
        ("MIG-22222222-bb", 2),
        ("GPU-9", 0),  # nobody's: as AReaL has it
        ("", 0),
        (None, 0),
    ],
)
def test_the_gpu_that_the_process_sees(bound, monkeypatch, visible, gpu):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    CudaPlatform.set_numa_affinity(0)
    assert bound == [gpu]


def test_of_several_the_one_at_its_place(bound, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2,GPU-1")
    CudaPlatform.set_numa_affinity(1)
    assert bound == [1]


def test_without_nvml_nothing_happens(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
    set_numa_affinity()
    CudaPlatform.set_numa_affinity(0)
