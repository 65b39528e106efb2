"""Step 7: whole train steps of Qwen2.5-VL-3B at random weights, as `areal-cppo bench
train-step --gpu` makes them.

Ours first, with micro-batches of 8,192 tokens as in the recipes; then 4,096, where
AReaL's own actor fits as well, or nearly. That one may run out of memory: it is noted,
and breaks nothing. Each part has its actors to itself, for to swap two of them between
GPU and host takes longer than a step.

The share of the peak counts all operations that are done, those that gradient
checkpointing does twice included.
"""

from __future__ import annotations

import gc
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from areal_cppo.bench.arms import select_arms
from areal_cppo.bench.models import make_model_folder, model_config
from areal_cppo.bench.results import describe
from areal_cppo.bench.train_step import Measured, measure
from areal_cppo.bench.workload import Workload
from areal_cppo.errors import UserError
from tests.gpu_check.findings import Findings
from tests.gpu_check.setting import GIB, Setting

FITS = 78 * GIB  # of an 80 GB card
SHARE = 0.35  # of the GPU's peak, arm c
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312}  # dense bf16, of the SXM parts


@dataclass(frozen=True)
class Part:
    """Arms measured together.

    Attributes
    ----------
    name
        For the results.
    arms
        Their letters.
    max_tokens
        Of a micro-batch.
    must
        Whether all have to be measured; else they may run out of memory.
    """

    name: str
    arms: str
    max_tokens: int
    must: bool = True


FULL = Workload(groups=8, max_tokens=8192)
TINY = Workload(image=56, prompt=10, response=20, group=4, groups=2, max_tokens=512)
PARTS = (
    Part("8,192 tokens", "c,d,e,d-share_prompts", 8192),
    Part("4,096 tokens", "c,d", 4096),
    Part("4,096 tokens, AReaL's", "a", 4096, must=False),
)
TINY_PARTS = (
    Part("512 tokens", "c,d,e,d-share_prompts", 512),
    Part("512 tokens, AReaL's", "a", 512, must=False),
)


def run(setting: Setting, findings: Findings) -> None:
    """The parts, each on its own; the bounds are those of the first."""
    parts = TINY_PARTS if setting.tiny else PARTS
    folder, config = model(setting)
    peak = peak_tflops(setting)
    measured: dict[str, dict[str, Any]] = {}
    for part in parts:
        arms = _measure(part, setting, folder, config, peak, findings)
        measured[part.name] = arms
    first = measured[parts[0].name]
    for letter in ("c", "d", "e"):
        if memory := first[letter]["peak_memory_bytes"]:
            findings.most(f"{letter}: peak memory, bytes", memory, FITS)
    share = first["c"].get("peak_share")
    if peak is not None:
        findings.least("c: share of the peak", share or 0, SHARE)
    ratios = _ratios(parts, measured)
    findings.figure(seconds_over_each_other=ratios)
    findings.say(_headline(first, share, ratios))


def model(setting: Setting) -> tuple[Path, Any]:
    """Folder and configuration; made once a run, for this step and the next."""
    config = model_config(model_name(setting))
    folder, part = setting.scratch / "bench-model", setting.scratch / "bench-part"
    if not folder.exists():
        part.mkdir(exist_ok=True)
        dtype = torch.bfloat16 if setting.cuda else torch.float32
        make_model_folder(part, config, dtype, FULL.seed)
        part.rename(folder)
    return folder, config


def model_name(setting: Setting) -> str:
    """A shape of `areal_cppo.bench.models`."""
    return "tiny" if setting.tiny else "qwen2.5-vl-3b"


def peak_tflops(setting: Setting) -> float | None:
    """Of the GPU, in dense bf16; `None`: not known here."""
    if not setting.cuda:
        return None
    name = torch.cuda.get_device_name(setting.device)
    return next((peak for kind, peak in PEAK_TFLOPS.items() if kind in name), None)


def _measure(
    part: Part,
    setting: Setting,
    folder: Path,
    config: Any,
    peak: float | None,
    findings: Findings,
) -> dict[str, dict[str, Any]]:
    """The part's arms by letter; what fails is noted among the figures."""
    workload = replace(TINY if setting.tiny else FULL, max_tokens=part.max_tokens)
    arms, results = select_arms(part.arms), []
    repeats, error = 1 if setting.tiny else 2, None
    try:
        measure(arms, workload, folder, config, repeats, note, results)
    except Exception as failure:  # the other parts are measured all the same
        if not isinstance(failure, UserError | torch.OutOfMemoryError):
            traceback.print_exc()
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    gc.collect()  # what an error has left in cycles
    if setting.cuda:
        torch.cuda.empty_cache()
    described = describe(workload, model_name(setting), results, peak)
    findings.figure(**{part.name: described | {"error": error}})
    if part.must:
        complete = sum(bool(r.seconds) and r.failure is None for r in results)
        findings.least(f"{part.name}: arms measured", complete, len(arms))
    found = {arm["letter"]: arm for arm in described["arms"]}
    missing = [Measured(arm, failure=error) for arm in arms if arm.letter not in found]
    blank = describe(workload, model_name(setting), missing)["arms"]
    return found | {arm["letter"]: arm for arm in blank}


def note(text: str) -> None:
    """How far it is, to the log."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _ratios(parts: tuple[Part, ...], measured: dict) -> dict[str, float]:
    """Of median seconds, within equal micro-batches."""
    found = {}
    for tokens in dict.fromkeys(part.max_tokens for part in parts):
        medians: dict[str, float] = {}
        for part in parts:
            if part.max_tokens == tokens:
                for letter, arm in measured[part.name].items():
                    medians[letter] = arm["seconds"]["median"]
        for one, other in (
            *(("d", "c"), ("e", "c"), ("d-share_prompts", "d")),
            *(("c", "a"), ("d", "a")),
        ):
            if medians.get(one) and medians.get(other):
                name = f"{one} / {other}, {tokens:,} tokens"
                found[name] = medians[one] / medians[other]
    return found


def _headline(first: dict, share: float | None, ratios: dict[str, float]) -> str:
    arm = first["d"]
    if arm["seconds"]["median"] is None:
        return "d was not measured"
    memory = arm["peak_memory_bytes"] / GIB
    words = f"d {arm['seconds']['median']:.2f} s, {memory:.1f} GiB"
    if share is not None:
        words += f"; c at {share:.0%} of the peak"
    stock = [
        f"{name[:5]} {value:.2f}" for name, value in ratios.items() if "/ a" in name
    ]
    return "; ".join([words, *stock])
