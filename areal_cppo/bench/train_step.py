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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils.data import N_TOKENS_PER_PAGE, tensor_container_to

from areal_cppo.bench.arms import Actors, Arm, arm_memory
from areal_cppo.bench.counting import Counts, count_step
from areal_cppo.bench.models import make_model_folder, model_config
from areal_cppo.bench.stock import PublishedActor, with_views
from areal_cppo.bench.workload import SPREAD, Workload, make_batch
from areal_cppo.config.memory import GIB, gpu_bytes
from areal_cppo.config.model_size import ModelShape, count_parameters
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
    actors = Actors(folder, workload)
    try:
        last = actors.ready(fitting[-1])  # ours, if any is
        layout = PatchLayout.from_image_processor(last.processor.image_processor)
        batch = make_batch(workload, config, layout)
        batches = {False: batch}
        # On-policy: the behaviour policy is the model itself.
        for item, logprobs in zip(batch, last.compute_logp(batch), strict=True):
            own = torch.roll(logprobs.cpu(), 1, dims=-1)
            item["logprobs"] = own * item["loss_mask"]
        if any(arm.stock is PublishedActor for arm in fitting):
            batches[True] = with_views(batch, layout, workload.seed)
        batches = {
            key: tensor_container_to(value, last.device)
            for key, value in batches.items()
        }
        del last  # an arm that runs out of memory lets go of its actor
        for arm in arms:
            result = Measured(arm, failure=lacking.get(arm.letter))
            results.append(result)
            if result.failure is not None:
                continue
            note(f"counting {arm.letter}: {arm.name}")
            _attempt(_count, actors, batches, result, note)
        for repeat in range(repeats):
            order = results if repeat % 2 == 0 else results[::-1]
            for result in order:
                if result.failure is not None:
                    continue
                _attempt(_time, actors, batches, result, note)
                if result.failure is None:
                    took = f"{result.arm.letter}: {result.seconds[-1]:.2f} s"
                    note(f"repeat {repeat + 1}/{repeats} {took}")
    finally:
        actors.close()


def lacking_memory(
    arms: Sequence[Arm], workload: Workload, folder: Path, config: Any
) -> dict[str, str]:
    """Arms that the GPU has not the memory for, by letter: what they would take, what
    there is, and what makes them fit. Empty without a GPU."""
    card = gpu_bytes()
    if card is None:
        return {}
    shape = ModelShape.from_config(config.to_dict())
    parameters = count_parameters(str(folder))
    views = False

    def need(arm: Arm, max_tokens: int) -> int:
        at = replace(workload, max_tokens=max_tokens)
        return sum(arm_memory(arm, at, shape, parameters, views).values())

    lacking = {}
    # First the one whose batch with views lies beside all others'.
    for arm in sorted(arms, key=lambda arm: arm.stock is not PublishedActor):
        views = views or arm.stock is PublishedActor
        needed = need(arm, workload.max_tokens)
        if needed <= card:
            continue
        fewer = (n for n in _fewer_tokens(workload) if need(arm, n) <= card)
        found = next(fewer, None)
        remedy = "take a smaller --model, or a larger GPU"
        if found is not None:
            remedy = f"set --max-tokens {found}"
        lacking[arm.letter] = (
            f"expected at least about {needed / GIB:.0f} GiB of GPU memory, found "
            f"{card / GIB:.1f}; {remedy}"
        )
        views = views and arm.stock is not PublishedActor
    return lacking


def _fewer_tokens(workload: Workload) -> Iterator[int]:
    """Smaller micro-batches in steps of AReaL's pages, down to the longest sequence."""
    longest = workload.prompt_tokens + int(workload.response * (1 + SPREAD))
    last = (workload.max_tokens - 1) // N_TOKENS_PER_PAGE
    for pages in range(last, 0, -1):
        if pages * N_TOKENS_PER_PAGE >= longest:
            yield pages * N_TOKENS_PER_PAGE


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
        run(actors.ready(arm), batches[arm.stock is PublishedActor], result)
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
