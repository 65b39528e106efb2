"""One rank of the two-rank tests of families and LoRA:
`python family_ranks.py MODELS_DIR OUT_FILE`.

Rank and world size come from the environment; MODELS_DIR holds a folder per family.
Rank 0 saves, per case, the gradient and the whole prepared batch, and leaves the
adapters in MODELS_DIR.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from tests.step import families, harness  # noqa: E402

CASES = {
    **{name: None for name in families.FAMILIES},
    "qwen2_5_vl lora": ["all-linear"],
    "qwen3_vl lora": ["q_proj", "v_proj"],  # tied embeddings, the vision tower frozen
}
# Of `mixed_batch`: rank 1 gets one response with an image and the one without.
SHARES = ([0, 1, 2, 4], [3, 5])


def main(models: str, out: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    results = {}
    for case, targets in CASES.items():
        name = case.split()[0]
        folder = Path(models, name)
        if targets is None:
            actor = harness.make_actor(harness.actor_config(folder, world))
        else:
            backend = f"fsdp:d{world}"
            actor = families.lora_actor(folder, targets, backend=backend)
            families.save(actor, Path(models, case))
        whole = families.mixed_batch(name)
        mine = harness.prepared(actor, [whole[i] for i in SHARES[rank]])
        gradient, _ = harness.update_gradient(actor, mine)
        parts: list[list[dict]] = [[] for _ in range(world)]
        dist.all_gather_object(parts, mine)
        results[case] = (gradient, [item for part in parts for item in part])
    if rank == 0:
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
