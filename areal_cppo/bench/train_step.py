"""`areal-cppo bench train-step`: the same step, made in several ways.

A step is what AReaL's trainer makes of a batch: the proximal policy's log-probabilities
where the configuration asks for them, advantages, the update with its optimiser step.
Every arm runs once with everything counted, which also warms it up, and then once in
each repeat, in an order that turns round from repeat to repeat. Timed runs count
nothing. On a GPU arms that need more memory than it has are left out beforehand, and
one that runs out all the same is left out from then on.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils.data import tensor_container_to

from areal_cppo.bench.actors import Actors
from areal_cppo.bench.arm_memory import lacking_memory
from areal_cppo.bench.arms import Arm
from areal_cppo.bench.counting import Counts, count_step
from areal_cppo.bench.models import make_batch
from areal_cppo.bench.stock import with_views
from areal_cppo.bench.workload import Workload
from areal_cppo.core import PatchLayout
from areal_cppo.errors import UserError

Note = Callable[[str], None]


@dataclass
class Measured:
    """One arm, as far as it was measured.

    Attributes
    ----------
    arm
        Which.
    counts
        Of its counting run; `None`: there was none to the end.
    seconds
        Of its timed runs.
    failure
        Why there are no more; `None`: nothing failed.
    """

    arm: Arm
    counts: Counts | None = None
    seconds: list[float] = field(default_factory=list)
    failure: str | None = None

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

    Raises
    ------
    UserError
        The GPU has not the memory for any arm.
    """
    lacking = lacking_memory(arms, workload, folder, config)
    for arm in arms:
        if arm.letter in lacking:
            note(f"left out {arm.letter}: {arm.name}: {lacking[arm.letter]}")
    fitting = [arm for arm in arms if arm.letter not in lacking]
    if not fitting:
        raise UserError(f"--arms: {lacking[arms[-1].letter]}")
    gc.collect()
    gc.freeze()  # cycles are looked for among what is new only, or it takes seconds
    actors = Actors(folder, workload)
    try:
        batches = _batches(actors, fitting, workload, config)
        for arm in arms:
            results.append(Measured(arm, failure=lacking.get(arm.letter)))
            if results[-1].failure is None:
                note(f"counting {arm.letter}: {arm.name}")
                _attempt(_count, actors, batches, results[-1], note)
        for repeat in range(repeats):
            order = results if repeat % 2 == 0 else results[::-1]
            for result in order:
                if result.failure is None:
                    _attempt(_time, actors, batches, result, note)
                if result.failure is None:
                    took = f"{result.arm.letter}: {result.seconds[-1]:.2f} s"
                    note(f"repeat {repeat + 1}/{repeats} {took}")
    finally:
        actors.close()
        gc.unfreeze()


def _batches(
    actors: Actors, arms: Sequence[Arm], workload: Workload, config: Any
) -> dict[bool, list[dict[str, Any]]]:
    """The batch; and by True, if an arm needs it, the same with views."""
    actor = actors.ready(arms[-1])  # ours, if any is
    layout = PatchLayout.from_image_processor(actor.processor.image_processor)
    batch = make_batch(workload, config, layout)
    # On-policy: the behaviour policy is the model itself.
    for item, logprobs in zip(batch, actor.compute_logp(batch), strict=True):
        own = torch.roll(logprobs.cpu(), 1, dims=-1)
        item["logprobs"] = own * item["loss_mask"]
    batches = {False: batch}
    if any(arm.published for arm in arms):
        batches[True] = with_views(batch, layout, workload.seed)
    return {
        views: tensor_container_to(items, actor.device)
        for views, items in batches.items()
    }


def _attempt(
    run: Callable[[FSDPPPOActor, list[dict[str, Any]], Measured], None],
    actors: Actors,
    batches: dict[bool, list[dict[str, Any]]],
    result: Measured,
    note: Note,
) -> None:
    """Count or time an arm. One that runs out of the GPU's memory ends alone."""
    arm = result.arm
    try:
        run(actors.ready(arm), batches[arm.published], result)
        return
    except torch.OutOfMemoryError:
        result.failure = "out of memory"
    actors.drop(arm)
    gc.collect()  # what the step left in cycles
    note(f"{arm.letter}: out of memory, left out from here on")


def _count(actor: FSDPPPOActor, batch: list[dict[str, Any]], result: Measured) -> None:
    """Note what a step computes and holds."""
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
    result.counts = counts


def _time(actor: FSDPPPOActor, batch: list[dict[str, Any]], result: Measured) -> None:
    """Note the seconds of a step, and on a GPU its peak memory."""
    cuda = actor.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    train_step(actor, batch)
    if cuda:
        torch.cuda.synchronize()
        result.counts.peak_bytes = torch.cuda.max_memory_allocated()
    result.seconds.append(time.perf_counter() - start)
    actor.export_stats()  # or the statistics of all steps pile up


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
