"""One rank of test_actor_recover.py: `recover_ranks.py MODEL OUT CHECKPOINT MODE`.

`whole` trains four steps and writes the checkpoint after the second; `resumed` loads it
into a fresh actor and trains the last two.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from areal.api.cli_args import OptimizerConfig  # noqa: E402

from tests.step.harness import actor_config, make_actor, prepared, uneven_batch  # noqa: E402

STEPS, KEPT = 4, 2


def main(model: str, out: str, checkpoint: str, mode: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    optimizer = OptimizerConfig(
        type="adam", lr=1e-3, lr_scheduler_type="cosine", warmup_steps_proportion=0.25
    )
    actor = make_actor(actor_config(Path(model), world, optimizer=optimizer))
    torch.manual_seed(100 + rank)
    first = 0
    if mode == "resumed":
        torch.manual_seed(999)
        actor.load_training_state(checkpoint)
        first = KEPT
    draws = []
    for step in range(first, STEPS):
        actor.set_version(step)
        batch = uneven_batch()
        actor.ppo_update(prepared(actor, batch[rank::world]))
        actor.step_lr_scheduler()
        draws.append((torch.rand(2).tolist(), random.random(), np.random.rand()))
        if mode == "whole" and step + 1 == KEPT:
            actor.save_training_state(checkpoint)
    weights = {
        name: parameter.detach().full_tensor().clone()
        for name, parameter in actor.model.named_parameters()
    }
    moments = [
        value.full_tensor().clone() if hasattr(value, "full_tensor") else value
        for parameter in actor.optimizer.state.values()
        for value in parameter.values()
    ]
    found = {
        "weights": weights,
        "moments": moments,
        "lr": actor.lr_scheduler.get_last_lr(),
        "draws": draws[-2:],
    }
    torch.save(found, f"{out}-{rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
