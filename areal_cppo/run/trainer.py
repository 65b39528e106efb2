"""CPPO on AReaL's trainer: the CPPO actor, the counting rollout, and observers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from areal import PPOTrainer
from areal.api.cli_args import (
    SchedulingStrategy,
    SchedulingStrategyType,
    SGLangConfig,
    ValidDatasetConfig,
)
from areal.api.io_struct import SaveLoadMeta
from areal.utils.environ import is_single_controller
from typing_extensions import override

from areal_cppo.cluster import make_scheduler
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import RunError, UserError
from areal_cppo.rollout.controller import CPPORolloutEngine
from areal_cppo.rollout.ledger import GIVEN_UP, PromptLedger, PromptLoader
from areal_cppo.run.observers import Observer
from areal_cppo.run.recorder import throughput
from areal_cppo.run.validation import Validation
from areal_cppo.step.actor import CPPOActor


class CPPOTrainer(PPOTrainer):
    """AReaL's `PPOTrainer` with `CPPOActor` as actor (and reference policy).

    Parameters
    ----------
    config
        The experiment.
    train_dataset, valid_dataset
        As `PPOTrainer` takes them.
    end_now
        Ends the process with an error, whatever it waits for: a server may be lost
        while the trainer sends it weights.

    Attributes
    ----------
    observers
        Told after each step, in order.
    """

    def __init__(
        self,
        config: CPPOConfig,
        train_dataset,
        valid_dataset=None,
        end_now: Callable[[RunError], None] | None = None,
    ):
        if not is_single_controller():
            raise UserError(
                "expected AReaL's single controller, found a launcher that starts one "
                "trainer per rank; start with `areal-cppo train --config FILE`"
            )
        self.observers: list[Observer] = []
        self._step_began = time.monotonic()
        self._end_now = end_now
        self._made = False
        self.validation: Validation | None = None
        if config.stats_logger.wandb.mode == "offline":
            # AReaL logs in whatever the mode; wandb then asks for no key.
            os.environ["WANDB_MODE"] = "offline"
        # AReaL's own recovery is left out: `areal_cppo.run` has it all.
        areal = copy(config)
        areal.recover = replace(config.recover, mode="disabled")
        try:
            super().__init__(areal, train_dataset, valid_dataset)
        except Exception as error:  # as when the servers join the trainer's group
            started = self.__dict__.get("rollout")
            cause = started.cause() if started is not None else None
            if cause is not None:
                raise cause from error
            raise
        self.config = config
        self._made = True

    @override
    def close(self):
        """AReaL's, but not of a trainer half made, as 2.0 does it.

        That may hang, and would tell last why it failed; the supervisor cleans up.
        """
        if self._made:
            super().close()

    @override
    def _init_scheduler(self):
        return make_scheduler(self.config)

    @override
    def _create_dataloader(self, dataset, dataset_config, rank, world_size):
        if isinstance(dataset_config, ValidDatasetConfig):
            return super()._create_dataloader(dataset, dataset_config, rank, world_size)
        if len(dataset) < dataset_config.batch_size:
            raise UserError(
                f"train_dataset.batch_size: expected at most the {len(dataset)} usable "
                f"problems, found {dataset_config.batch_size}; lower it"
            )
        ledger = PromptLedger(
            len(dataset),
            self.config.seed,
            dataset_config.shuffle,
            self.config.groups.attempts,
        )
        return PromptLoader(dataset, dataset_config.batch_size, ledger)

    @override
    def _save_recover_checkpoint(self, epoch, epoch_step, global_step):
        """Nothing: the `Keeper` writes one, after the step's metrics."""

    @override
    def _create_train_engine(self, actor_config, alloc):
        actor = CPPOActor.as_controller(actor_config, self.scheduler)
        actor.create_process_group(parallel_strategy=alloc.parallel)
        return actor

    @override
    def _init_rollout(self, rollout_config, is_eval=False, lora_path=None):
        if is_eval and self.valid_dataloader is None:
            return None  # saves a worker that would have nothing to do
        config = deepcopy(rollout_config)
        sglang = self.config.sglang
        if lora_path is not None:
            sglang.lora_paths = [f"{self.config.gconfig.lora_name}-v0={lora_path}"]
        parallel = self.rollout_alloc.parallel
        start: dict[str, Any] = {
            "role": "rollout",
            "server_args": SGLangConfig.build_args(
                sglang_config=sglang,
                tp_size=parallel.tp_size,
                pp_size=parallel.pp_size,
                base_gpu_id=0,
            ),
        }
        if is_eval:  # the same servers, no bound on staleness, no GPU of its own
            start |= {"role": "eval-rollout", "server_infos": self.rollout.server_infos}
            start["token"] = self.rollout.token
            config.max_head_offpolicyness = int(1e12)
            config.scheduling_strategy = SchedulingStrategy(
                type=SchedulingStrategyType.colocation, target="rollout"
            )
            for spec in config.scheduling_spec:
                spec.gpu = 0
        controller = CPPORolloutEngine.as_controller(config, self.scheduler)
        controller.end_now = self._end_now
        controller.initialize(**start)
        return controller

    @override
    def train(self, *args, **kwargs):
        """AReaL's; the first step begins now."""
        self._step_began = time.monotonic()
        return super().train(*args, **kwargs)

    @override
    def _evaluate(
        self, eval_workflow, eval_workflow_kwargs, epoch, epoch_step, global_step
    ):
        """Our own validation, while the weights of the step are on the servers."""
        began = time.monotonic()
        if self.validation is not None:
            self.validation.run(global_step + 1)
        self._step_began += time.monotonic() - began

    @override
    def _export_and_commit_stats(self, epoch, epoch_step, global_step):
        logger = self.stats_logger
        commit = logger.commit
        committed: dict[str, float] = {}

        def tee(epoch, step, global_step, data):
            data[GIVEN_UP] = float(self.train_dataloader.ledger.given_up)
            now = time.monotonic()
            data.update(throughput(data, now - self._step_began))
            self._step_began = now
            if self.validation is not None:
                data.update(self.validation.stats)
                self.validation.stats = {}
            committed.update(data)
            commit(epoch, step, global_step, data)

        logger.commit = tee
        try:
            super()._export_and_commit_stats(epoch, epoch_step, global_step)
        finally:
            logger.commit = commit
        for observer in self.observers:
            observer.step_done(global_step + 1, committed)

    def server_addresses(self) -> list[str]:
        """`host:port` of each generation server."""
        return [f"{server.host}:{server.port}" for server in self.rollout.server_infos]

    def workers(self) -> dict[str, str]:
        """`host:port` of the RPC server of each worker, by its name.

        With Ray workers have none.
        """
        engines = [e for e in (self.actor, self.ref, self.rollout) if e is not None]
        return {
            worker.id: f"{worker.ip}:{worker.worker_ports[0]}"
            for engine in engines
            for worker in engine.workers
            if worker.worker_ports and self.config.scheduler.type != "ray"
        }

    def save_training_state(self, folder: Path) -> None:
        """Have all trainer ranks write what they need to go on."""
        self.actor._custom_function_call("save_training_state", str(folder))

    def load_training_state(self, folder: Path, version: int) -> None:
        """Have all trainer ranks go on, and hand their weights to the servers.

        The policy has `version` from now on, everywhere.
        """
        self.actor._custom_function_call("load_training_state", str(folder))
        self.rollout.pause()
        self.actor.update_weights(self.weight_update_meta.with_version(version))
        for engine in (self.actor, self.rollout, self.eval_rollout):
            if engine is not None:
                engine.set_version(version)
        self.rollout.staleness_manager.on_version_recovered(version)
        self.rollout.resume()

    def save_checkpoint(self, folder: Path) -> Path:
        """Write the actor's weights, tokenizer and processor as a Hugging Face folder.

        Of a LoRA actor the weights are the adapters. Written aside and renamed, so that
        `folder` is either whole or not there.
        """
        aside = folder.with_name(folder.name + ".part")
        self.actor.save(
            SaveLoadMeta(
                path=str(aside),
                weight_format="hf",
                with_optim=False,
                tokenizer=self.tokenizer,
                processor=self.processor,
                base_model_path=self.config.actor.path,
            )
        )
        if self.config.actor.use_lora:  # AReaL leaves these two out then
            self.tokenizer.save_pretrained(aside)
            if self.processor is not None:
                self.processor.save_pretrained(aside)
        aside.rename(folder)
        return folder
