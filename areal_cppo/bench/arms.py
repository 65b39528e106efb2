"""The arms of the comparison, and the two actors that run them.

Two actors live side by side, AReaL's and ours, each with its own copy of the same
weights and its own optimiser. What differs between arms of one actor is switched: the
class of AReaL's, whose subclasses here have no state of their own, and the settings of
ours. So the arms of one repeat can run one after the other, and no arm runs on a model
that another actor has changed.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from areal.api import FinetuneSpec
from areal.api.cli_args import (
    MicroBatchSpec,
    NormConfig,
    OptimizerConfig,
    PPOActorConfig,
    RejectionSamplingConfig,
)
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils import stats_tracker

from areal_cppo.bench.stock import ApartActor, PublishedActor
from areal_cppo.bench.workload import SPREAD, Workload
from areal_cppo.config import memory
from areal_cppo.config.experiment import CPPOActorConfig
from areal_cppo.config.model_size import ModelShape
from areal_cppo.config.speed import SpeedConfig
from areal_cppo.errors import UserError
from areal_cppo.step.actor import CPPOActor
from areal_cppo.step.attention import SDPA, TORCH_FLASH, use_torch_flash

_BRANCHES = ("anchor", "positive", "negative")
# A step of this size leaves fp32 weights as they are, so that repeats are alike.
_LEARNING_RATE = 1e-9
_BF16, _FP32 = 2, 4  # bytes


@dataclass(frozen=True)
class Arm:
    """One way to make a train step.

    Attributes
    ----------
    letter
        Short name, for the command line and for ratios.
    name
        What it is.
    stock
        AReaL's actor or what is built on it; `None`: ours, with the rest.
    objective
        `actor.objective`.
    grad
        `actor.cpl.grad`.
    off
        Fields of `actor.speed` that are false.
    """

    letter: str
    name: str
    stock: type[FSDPPPOActor] | None = None
    objective: str = "cppo"
    grad: tuple[str, ...] = _BRANCHES
    off: tuple[str, ...] = ()


def all_arms() -> list[Arm]:
    """Every arm, in the order of the table."""
    speed = [field.name for field in fields(SpeedConfig)]
    ablations = []
    for name in speed:
        # A shared prompt holds its image: only without it an image comes up twice.
        off = ("share_prompts", name) if name == "share_images" else (name,)
        ablations.append(Arm(f"d-{name}", f"CPPO without {', '.join(off)}", off=off))
    return [
        Arm("a", "AReaL, GRPO", FSDPPPOActor),
        Arm("a*", "AReaL, GRPO, sequences apart", ApartActor),
        Arm("b", "AReaL, published CPPO", PublishedActor),
        Arm("c", "ours, GRPO", objective="grpo"),
        Arm("d", "ours, CPPO"),
        Arm("e", "ours, CPPO, gradient of anchor only", grad=("anchor",)),
        *ablations,
        Arm("d-all", "CPPO without all of these", off=tuple(speed)),
    ]


def select_arms(letters: str | None) -> list[Arm]:
    """The arms that a user asked for, as `a,d`; all by default."""
    arms = all_arms()
    if letters is None:
        return arms
    wanted = [letter.strip() for letter in letters.split(",")]
    known = {arm.letter for arm in arms}
    for letter in wanted:
        if letter not in known:
            raise UserError(
                f"--arms: expected some of {', '.join(a.letter for a in arms)}, found "
                f"{letter!r}; give their letters, as a,d"
            )
    return [arm for arm in arms if arm.letter in wanted]


def arm_memory(
    arm: Arm, workload: Workload, shape: ModelShape, parameters: int, views: bool
) -> dict[str, int]:
    """What a GPU has to hold for an arm at worst, bytes by part.

    With the settings that `Actors` has on a GPU: fp32 weights, gradients and Adam's
    moments of one actor (the other one waits in the host's memory), bf16 to compute in.

    Parameters
    ----------
    arm, workload
        What is to be run.
    shape, parameters
        Of the model.
    views
        Whether the batch is there a second time, with the views of the published CPPO.
    """
    published, stock = arm.stock is PublishedActor, arm.stock is not None
    passes = 3 if published else 1
    if not stock and arm.objective == "cppo":
        passes = len({"anchor", *arm.grad})
    tokens = min(workload.max_tokens, _all_tokens(workload))
    patches = _images_at_once(arm, workload) * workload.image_tokens * shape.merge**2
    if stock:
        logits = memory.stock_logits(shape, tokens, _BF16, published)
    elif "response_logits" in arm.off:
        logits = memory.whole_logits(shape, tokens, _BF16)
    else:
        logits = memory.chunked_logits(shape, tokens, _BF16)
    return {
        "weights, gradients, Adam": 4 * _FP32 * parameters,
        "pixels": _pixels(arm, workload, shape, views),
        "text activations": memory.text_activations(shape, tokens, passes, _BF16),
        "vision activations": memory.vision_activations(shape, patches, passes, _BF16),
        "gathered weights": memory.gathered_weights(shape, _BF16),
        "gradients on their way": memory.reduced_gradients(shape, 1, _BF16, _FP32),
        "logits or a layer": max(
            logits,
            memory.text_layer(shape, tokens, _BF16),
            memory.vision_layer(shape, patches, _BF16),
        ),
        "CUDA and gaps": memory.CUDA,
    }


def _all_tokens(workload: Workload) -> int:
    responses = workload.response_lengths()
    return workload.samples * workload.prompt_tokens + sum(responses)


def _images_at_once(arm: Arm, workload: Workload) -> int:
    """Images that the tower gets in a micro-batch, at most."""
    shortest = workload.prompt_tokens + int(workload.response * (1 - SPREAD))
    sequences = min(workload.samples, max(1, workload.max_tokens // shortest))
    if arm.stock is not None or "share_images" in arm.off:
        return sequences
    return min(workload.groups, sequences)


def _pixels(arm: Arm, workload: Workload, shape: ModelShape, views: bool) -> int:
    """Of the batch, with its views where they are there, and of what a step copies.

    AReaL's `compute_advantages` returns each group with a copy of the whole batch's
    images, and each micro-batch has another.
    """
    image, samples = shape.image_bytes(workload.image_tokens), workload.samples
    beside = image * samples * 3 * views
    if arm.stock is not None:
        branches = 3 if arm.stock is PublishedActor else 1
        return beside + image * samples * (1 + branches * (workload.groups + 1))
    kinds = 2 if arm.objective == "cppo" else 0
    places = workload.groups
    if "share_prompts" in arm.off:
        rows = -(-_all_tokens(workload) // workload.max_tokens)
        shared = "share_images" not in arm.off
        places = min(samples, places * rows) if shared else samples
    return beside + memory.step_pixels(image, samples, workload.groups, kinds, places)


class Actors:
    """Builds AReaL's actor and ours when first asked for, and switches them to an arm.

    On a GPU the one that is not asked for waits in the host's memory.

    Parameters
    ----------
    folder
        Of the model.
    workload
        Its group size, micro-batch size and seed.
    """

    def __init__(self, folder: Path, workload: Workload):
        self.folder = folder
        self.workload = workload
        self.cuda = torch.cuda.is_available()
        self._actors: dict[bool, FSDPPPOActor] = {}

    def ready(self, arm: Arm) -> FSDPPPOActor:
        """The arm's actor, switched to it."""
        stock = arm.stock is not None
        if self.cuda:
            self._make_room(stock)
        if stock not in self._actors:
            self._actors[stock] = _initialize(
                FSDPPPOActor(self.settings(PPOActorConfig))
                if stock
                else CPPOActor(
                    self.settings(CPPOActorConfig, view_seed=self.workload.seed)
                )
            )
        actor = self._actors[stock]
        if stock:
            actor.__class__ = arm.stock
            return actor
        actor.config.objective = arm.objective
        actor.config.cpl.grad[:] = arm.grad
        for field in fields(SpeedConfig):
            setattr(actor.config.speed, field.name, field.name not in arm.off)
        return actor

    def _make_room(self, stock: bool) -> None:
        """One out, then the other in: the GPU has no room for both."""
        for kind, actor in self._actors.items():
            if kind != stock:
                _move(actor, torch.device("cpu"))
        torch.cuda.empty_cache()
        if stock in self._actors:
            _move(self._actors[stock], self._actors[stock].device)

    def drop(self, arm: Arm) -> None:
        """Let go of an arm's actor, which an error has left in the middle of a step; it
        is made anew when it is next asked for."""
        actor = self._actors.pop(arm.stock is not None, None)
        if actor is None:
            return
        for other in self._actors.values():  # the process group goes with its owner
            other.own_global_group |= actor.own_global_group
            actor.own_global_group = False
        actor.destroy()
        for tracker in stats_tracker.TRACKERS.values():  # of half a step
            for kept in (tracker.stats, tracker.denominators, tracker.reduce_types):
                kept.clear()

    def settings(self, config: type[PPOActorConfig], **more: Any) -> PPOActorConfig:
        """The settings of both actors: those of the recipes for real models."""
        return config(
            backend="fsdp:d1",
            experiment_name="bench",
            trial_name="train-step",
            path=str(self.folder),
            dtype="bfloat16" if self.cuda else "float32",
            optimizer_dtype="float32",
            attn_impl=SDPA if config is PPOActorConfig else attention(),
            disable_dropout=True,
            gradient_checkpointing=True,
            mb_spec=MicroBatchSpec(max_tokens_per_mb=self.workload.max_tokens),
            optimizer=OptimizerConfig(
                type="adam",
                lr=_LEARNING_RATE,
                weight_decay=0.0,
                lr_scheduler_type="constant",
                gradient_clipping=1.0,
                warmup_steps_proportion=0.0,
            ),
            eps_clip=0.2,
            eps_clip_higher=0.28,
            reward_norm=NormConfig(
                mean_level="group", std_level="group", group_size=self.workload.group
            ),
            adv_norm=None,
            kl_ctl=0.0,
            ppo_n_minibatches=1,
            recompute_logprob=True,
            use_decoupled_loss=True,
            rejection_sampling=RejectionSamplingConfig(metric="ratio", upper=5.0),
            **more,
        )

    def close(self) -> None:
        """Let go of models and process groups."""
        for actor in reversed(self._actors.values()):
            actor.destroy()
        self._actors.clear()


def attention() -> str:
    """torch's flash-attention on a GPU, else sdpa; for all arms."""
    return TORCH_FLASH if torch.cuda.is_available() else SDPA


def _initialize(actor: FSDPPPOActor) -> FSDPPPOActor:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    os.environ.update(
        RANK="0",
        WORLD_SIZE="1",
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
    )
    actor.create_process_group()
    actor.initialize(
        None, FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=8)
    )
    if attention() == TORCH_FLASH:
        use_torch_flash(actor.model)  # AReaL's own settings don't know it
    # Adam's moments exist before anything is measured; a gradient of 0 moves nothing.
    for parameter in actor.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    actor.optimizer.step()
    actor.optimizer_zero_grad()
    return actor


def _move(actor: FSDPPPOActor, device: torch.device) -> None:
    """Move weights and the optimiser's state."""
    actor.model.to(device)
    for state in actor.optimizer.state.values():
        for name, value in state.items():
            if torch.is_tensor(value):
                state[name] = value.to(device)
