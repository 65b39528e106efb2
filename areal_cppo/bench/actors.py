"""The two actors that run the arms of the comparison.

They live side by side, AReaL's and ours, each with its own copy of the same weights and
its own optimiser. What differs between arms of one actor is switched: the class of
AReaL's, whose subclasses here have no state of their own, and the settings of ours. So
the arms of one repeat can run one after the other, and no arm runs on a model that
another actor has changed.
"""

from __future__ import annotations

import os
import socket
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

from areal_cppo.bench.arms import SWITCHES, Arm
from areal_cppo.bench.machine import attention
from areal_cppo.bench.stock import ApartActor, PublishedActor
from areal_cppo.bench.workload import Workload
from areal_cppo.config import SDPA, TORCH_FLASH
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.step.actor import CPPOActor
from areal_cppo.step.attention import use_torch_flash

_STOCK = {"plain": FSDPPPOActor, "apart": ApartActor, "published": PublishedActor}
# A step of this size leaves fp32 weights as they are, so that repeats are alike.
_LEARNING_RATE = 1e-9


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
            actor.__class__ = _STOCK[arm.stock]
            return actor
        actor.config.objective = arm.objective
        actor.config.cpl.grad[:] = arm.grad
        actor.config.cpl.responses = arm.responses
        actor.config.kept_view_tokens = arm.kept
        for name in SWITCHES:
            setattr(actor.config.speed, name, name not in arm.off)
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
