"""The real CPPO actor in one process, without controller and servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from areal.api import FinetuneSpec

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.step.actor import CPPOActor


@contextmanager
def one_process_actor(config: CPPOConfig, steps: int) -> Iterator[CPPOActor]:
    """The actor of a configuration, ready to train for `steps` steps on the CPU."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    # No port: runs that start at the same time cannot take each other's.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    actor = CPPOActor(config.actor)
    try:
        actor.create_process_group()
        batch = config.train_dataset.batch_size
        actor.initialize(
            None,
            FinetuneSpec(
                total_train_epochs=1,
                dataset_size=batch * max(steps, 1),
                train_batch_size=batch,
            ),
        )
        actor.set_version(0)
        yield actor
    finally:
        actor.destroy()
        dist.destroy_process_group()
