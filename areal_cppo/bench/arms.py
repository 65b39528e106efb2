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

from areal_cppo.bench.stock import ApartActor, PublishedActor
from areal_cppo.bench.workload import Workload
from areal_cppo.errors import UserError
from areal_cppo.training.actor import CPPOActor
from areal_cppo.training.config import CPPOActorConfig
from areal_cppo.training.speed import SpeedConfig

_BRANCHES = ("anchor", "positive", "negative")
# A step of this size leaves fp32 weights as they are, so that repeats are alike.
_LEARNING_RATE = 1e-9


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
            for kind, actor in self._actors.items():
                _move(actor, actor.device if kind == stock else torch.device("cpu"))
            torch.cuda.empty_cache()
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

    def settings(self, config: type[PPOActorConfig], **more: Any) -> PPOActorConfig:
        """The settings of both actors: those of the recipes for real models."""
        return config(
            backend="fsdp:d1",
            experiment_name="bench",
            trial_name="train-step",
            path=str(self.folder),
            dtype="bfloat16" if self.cuda else "float32",
            optimizer_dtype="float32",
            attn_impl=attention(),
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
    """flash-attention where it is, else sdpa."""
    if not torch.cuda.is_available():
        return "sdpa"
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


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
