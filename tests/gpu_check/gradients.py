"""Gradients of the tiny actor's update, for step 4; its CPU half is a program.

    python -m tests.gpu_check.gradients FILE [--tiny]

writes the fp32 gradients of all cases, and which tokens each selected, to FILE. It is
run without a visible GPU, beside the process that computes the same on one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.gpu_check.packages import find_stand_ins
from tests.gpu_check.setting import exact_fp32

OBJECTIVES = ("grpo", "cppo", "cpl", "papo", "vppo", "dvrp", "pgpo")
FAMILY = "qwen2_5_vl"


@dataclass(frozen=True)
class Case:
    """One update.

    Attributes
    ----------
    name
        For the results.
    objective
        `actor.objective`.
    batch
        `groups` (shared prompts, and responses without an image), `rows` (each in a
        row of its own, one without an image), `no gate` (no positive advantage).
    lora
        Of adapters, instead of all weights.
    offload
        On a GPU, with parameters that wait in the host's memory
        (`actor.fsdp.offload_params`).
    """

    name: str
    objective: str
    batch: str = "groups"
    lora: bool = False
    offload: bool = False


CASES = (
    *(Case(objective, objective) for objective in OBJECTIVES),
    Case("cppo, a row without an image", "cppo", "rows"),
    Case("cppo, an empty gate", "cppo", "no gate"),
    Case("cppo, LoRA", "cppo", lora=True),
    Case("cppo, LoRA, offloaded", "cppo", lora=True, offload=True),
)
TINY_CASES = tuple(c for c in CASES if c.objective == "cppo" and not c.offload)


@dataclass
class Selections:
    """Which tokens each call of a selection chose, in the order of the calls.

    Attributes
    ----------
    masks
        On the CPU.
    flipped
        Tokens that a replayed run would have chosen otherwise.
    """

    masks: list[Tensor] = field(default_factory=list)
    flipped: int = 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within, keep what is chosen."""

        def record(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def selected(*args: Any, **kwargs: Any) -> Tensor:
                mask = select(*args, **kwargs)
                self.masks.append(mask.cpu())
                return mask

            return selected

        with _selections(record):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within, the same is chosen again, whatever the scores say.

        In bf16 a score on the verge falls to one side or the other, and the gradients
        of two kernels then differ by a token's worth, not by rounding.
        """
        masks = iter(self.masks)

        def replay(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def selected(*args: Any, **kwargs: Any) -> Tensor:
                own = select(*args, **kwargs)
                mask = next(masks).to(own.device)
                self.flipped += int((own != mask).sum())
                return mask

            return selected

        with _selections(replay):
            yield


@contextmanager
def _selections(wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Within, CPL's and VPPO's choice of tokens goes through `wrap`."""
    from areal_cppo.core import perception
    from areal_cppo.step.objectives import vppo

    with ExitStack() as stack:
        for module, name in (
            (perception, "select_perception_tokens"),
            (vppo, "select_dependent_tokens"),
        ):
            wrapped = wrap(getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, wrapped))
        yield


def items(batch: str, family: str) -> list[dict[str, Any]]:
    """A batch by name, as rollout makes it."""
    from tests.step import families

    if batch == "rows":
        return families.mixed_batch(family)
    grouped = families.grouped_batch(family)
    if batch == "no gate":
        for item in grouped:
            item["rewards"] = -item["rewards"].abs()
    return grouped


def fp32_gradients(folder: Path, cases: tuple[Case, ...]) -> dict[str, dict[str, Any]]:
    """By case: `gradient`, a vector on the CPU, `masks`, and how far an optimiser step
    then moves a weight at the most (`moved`); or `error`.

    On the GPU if torch sees one. `folder` is for the model.
    """
    from tests.step import families

    actors: dict[tuple[bool, bool], Any] = {}
    found = {}
    try:
        families.make_folder(FAMILY, folder)
        for case in cases:
            kind = (case.lora, case.offload)
            try:
                if kind not in actors:
                    actors[kind] = _actor(folder, *kind)
                found[case.name] = _update(actors[kind], case)
            except Exception as error:  # the other cases go on
                traceback.print_exc()
                text = " ".join(str(error).split())
                found[case.name] = {"error": f"{type(error).__name__}: {text}"}
    finally:
        destroy(actors.values())
    return found


def destroy(actors: Iterable[Any]) -> None:
    """Let go of actors; the first one's process group goes last."""
    for actor in reversed(list(actors)):
        actor.destroy()
    os.environ.pop("MASTER_PORT", None)  # the next group has another


def on_device(actor: Any, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch where AReaL hands it to an actor, with proximal log-probs and
    advantages."""
    from areal.utils.data import tensor_container_to

    from tests.step import harness

    return harness.prepared(actor, tensor_container_to(batch, actor.device))


def _actor(folder: Path, lora: bool, offload: bool):
    from areal.api.cli_args import FSDPEngineConfig
    from torch.distributed.tensor import distribute_tensor

    from tests.step import families, harness

    # FSDP2 offloads to the CPU what is on a GPU.
    fsdp = FSDPEngineConfig(offload_params=offload and torch.cuda.is_available())
    if not lora:
        return harness.make_actor(harness.actor_config(folder, fsdp=fsdp))
    actor = families.lora_actor(folder, ["all-linear"], fsdp=fsdp)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in actor.model.named_parameters():
        if "lora_A" in name:  # drawn by PEFT, from the device's own generator
            drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
            mesh, placements = parameter.device_mesh, parameter.placements
            parameter.data.copy_(distribute_tensor(drawn, mesh, placements))
    return actor


def _update(actor, case: Case) -> dict[str, Any]:
    """A case's gradient, and then a step, which is taken back."""
    from areal.api.cli_args import MicroBatchSpec

    from tests.step import harness

    actor.config.objective = case.objective
    rows = 6 if case.batch == "rows" else 1
    actor.config.mb_spec = MicroBatchSpec(n_mbs=rows)
    selections = Selections()
    with exact_fp32(), selections.recorded():
        batch = on_device(actor, items(case.batch, FAMILY))
        gradient, _ = harness.update_gradient(actor, batch)
        masks = list(selections.masks)
        before = [weight.detach().clone() for weight in actor.model.parameters()]
        actor.ppo_update([dict(item) for item in batch])
        actor.export_stats()
    moved = 0.0
    with torch.no_grad():
        for weight, old in zip(actor.model.parameters(), before, strict=True):
            own, old = weight.to_local(), old.to_local()
            moved = max(moved, float((own - old).abs().max()))
            own.copy_(old)
    actor.optimizer.state.clear()
    return {"gradient": gradient.cpu(), "masks": masks, "moved": moved}


def main() -> None:
    """The CPU half."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check.gradients")
    parser.add_argument("file", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    find_stand_ins()
    from areal_cppo.serving.cpu import enable_in_this_process

    enable_in_this_process()
    from areal_cppo.bench.quiet import quiet

    with quiet(), tempfile.TemporaryDirectory() as folder:
        cases = TINY_CASES if args.tiny else CASES
        part = args.file.with_suffix(".part")
        torch.save(fp32_gradients(Path(folder), cases), part)
        part.replace(args.file)


if __name__ == "__main__":
    main()
