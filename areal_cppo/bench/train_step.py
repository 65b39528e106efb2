"""`areal-cppo bench train-step`: the same step, made in several ways.

A step is what AReaL's trainer makes of a batch: the proximal policy's log-probabilities
where the configuration asks for them, advantages, the update with its optimiser step.
Every arm runs once with everything counted, which also warms it up, and then once in
each repeat, in an order that turns round from repeat to repeat. Timed runs count
nothing.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils.data import tensor_container_to

from areal_cppo.bench.arms import Actors, Arm
from areal_cppo.bench.counting import Counts, count_step
from areal_cppo.bench.models import make_model_folder, model_config
from areal_cppo.bench.stock import PublishedActor, with_views
from areal_cppo.bench.workload import Workload, make_batch
from areal_cppo.core import PatchLayout

Note = Callable[[str], None]


@dataclass
class Measured:
    """One arm, as far as it was measured."""

    arm: Arm
    counts: Counts
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        """Seconds of a step; `None` before the first repeat."""
        return statistics.median(self.seconds) if self.seconds else None


def train_step(actor: FSDPPPOActor, batch: list[dict[str, Any]]) -> None:
    """One step of AReaL's trainer (`areal/trainer/rl_trainer.py`), GRPO or CPPO."""
    batch = [dict(item) for item in batch]
    if actor.config.should_compute_prox_logp():
        for item, logprobs in zip(batch, actor.compute_logp(batch), strict=True):
            item["prox_logp"] = logprobs
    actor.ppo_update(actor.compute_advantages(batch))
    actor.step_lr_scheduler()


@contextmanager
def model_folder(name: str, seed: int) -> Iterator[tuple[Path, Any]]:
    """A temporary folder with a model of that shape, and its configuration."""
    config = model_config(name)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    with tempfile.TemporaryDirectory(prefix="areal-cppo-bench-") as folder:
        yield make_model_folder(Path(folder), config, dtype, seed), config


def measure(
    arms: Sequence[Arm],
    workload: Workload,
    folder: Path,
    config: Any,
    repeats: int,
    note: Note,
    results: list[Measured],
) -> None:
    """Measure the arms on one workload.

    Parameters
    ----------
    arms
        In the order of the table.
    workload
        What a step is made of.
    folder, config
        The model.
    repeats
        Timed runs of each arm.
    note
        Told how far it is.
    results
        Filled as numbers arrive: what was measured before a Ctrl-C is kept.
    """
    actors = Actors(folder, workload)
    try:
        last = actors.ready(arms[-1])  # ours, if any is
        layout = PatchLayout.from_image_processor(last.processor.image_processor)
        batch = make_batch(workload, config, layout)
        batches = {False: batch, True: batch}
        # On-policy: the behaviour policy is the model itself.
        for item, logprobs in zip(batch, last.compute_logp(batch), strict=True):
            own = torch.roll(logprobs.cpu(), 1, dims=-1)
            item["logprobs"] = own * item["loss_mask"]
        if any(arm.stock is PublishedActor for arm in arms):
            batches[True] = with_views(batch, layout, workload.seed)
        batches = {
            key: tensor_container_to(value, last.device)
            for key, value in batches.items()
        }
        for arm in arms:
            note(f"counting {arm.letter}: {arm.name}")
            actor = actors.ready(arm)
            counts = _count(actor, batches[arm.stock is PublishedActor])
            results.append(Measured(arm, counts))
        for repeat in range(repeats):
            order = results if repeat % 2 == 0 else results[::-1]
            for result in order:
                arm = result.arm
                actor = actors.ready(arm)
                seconds = _time(actor, batches[arm.stock is PublishedActor], result)
                result.seconds.append(seconds)
                note(f"repeat {repeat + 1}/{repeats} {arm.letter}: {seconds:.2f} s")
    finally:
        actors.close()


def _count(actor: FSDPPPOActor, batch: list[dict[str, Any]]) -> Counts:
    resident = [
        *actor.model.parameters(),
        *actor.model.buffers(),
        *(
            value
            for state in actor.optimizer.state.values()
            for value in state.values()
            if torch.is_tensor(value)
        ),
        *_tensors(batch),
    ]
    gc.collect()  # what an earlier arm left in cycles
    with count_step(actor.model, resident) as counts:
        train_step(actor, batch)
    actor.export_stats()
    if actor.device.type == "cuda":
        train_step(actor, batch)  # torch.compile sits out while operations are counted
        actor.export_stats()
    return counts


def _time(actor: FSDPPPOActor, batch: list[dict[str, Any]], result: Measured) -> float:
    """Seconds of a step; on a GPU notes its peak memory, too."""
    cuda = actor.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    train_step(actor, batch)
    if cuda:
        torch.cuda.synchronize()
        result.counts.peak_bytes = torch.cuda.max_memory_allocated()
    seconds = time.perf_counter() - start
    actor.export_stats()  # or the statistics of all steps pile up
    return seconds


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
