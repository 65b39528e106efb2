"""`python trained_checkpoint.py FOLDER`: a checkpoint of the tiny model after a step of
the real trainer, written as a run writes it. Not a test itself.

In a process of its own, since the trainer makes a process group and sets variables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from areal.api.cli_args import OptimizerConfig

from areal_cppo.tasks.problems import TRIANGLES
from tests.step import families, harness

LEARNING_RATE = 1e-5  # the batch is noise: a larger step would unlearn the task


def main(folder: str) -> None:
    optimizer = OptimizerConfig(
        type="adam", lr=LEARNING_RATE, lr_scheduler_type="constant"
    )
    config = harness.actor_config(TRIANGLES.checkpoint, optimizer=optimizer)
    actor = harness.make_actor(config)
    batch = [harness.trajectory(seed, 12, 1.0 - 2 * (seed % 2)) for seed in range(4)]
    actor.ppo_update(harness.prepared(actor, batch))
    families.save(actor, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
