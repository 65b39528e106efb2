"""Step 9: what it costs to hand trajectories from process to process, on this CPU.

AReaL sends tensors as base64 in JSON: serialised, dumped, parsed, made tensors again.
Figures only; docs/throughput.md has what a step sends.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from areal_cppo.bench.models import make_batch, model_config
from areal_cppo.bench.workload import Workload
from areal_cppo.core import PatchLayout
from tests.gpu_check.findings import Findings
from tests.gpu_check.setting import Setting

# 16 responses with an image of 1,296 tokens (24 MB) each.
FULL = Workload(image=1008, groups=2, max_tokens=8192)
TINY = Workload(image=56, prompt=6, response=12, group=4, groups=2, max_tokens=512)


def run(setting: Setting, findings: Findings) -> None:
    """There and back, twice; of each part the faster one counts."""
    import orjson
    from areal.infra.rpc.serialization import deserialize_value, serialize_value

    workload = TINY if setting.tiny else FULL
    batch = make_batch(workload, model_config("tiny"), PatchLayout())
    size = sum(x.numel() * x.element_size() for x in tensors(batch))
    best: dict[str, float] = {}
    for _ in range(2):
        value: Any = batch
        for name, work in (
            ("serialize", serialize_value),
            ("dump", orjson.dumps),
            ("parse", orjson.loads),
            ("deserialize", deserialize_value),
        ):
            start = time.perf_counter()
            value = work(value)
            seconds = time.perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
            if name == "dump":
                findings.figure(json_bytes=len(value))
    same = all(map(torch.equal, tensors(batch), tensors(value)))
    findings.true("what arrives is what was sent", same)
    per_gb = {name: seconds / size * 1e9 for name, seconds in best.items()}
    findings.figure(tensor_bytes=size, seconds_per_gb=per_gb)
    findings.say(f"{sum(per_gb.values()):.1f} s/GB there and back")


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in lists and dictionaries, in order."""
    if torch.is_tensor(value):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return []
    return [tensor for part in parts for tensor in tensors(part)]
