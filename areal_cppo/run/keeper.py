"""Keeps a run: its ledger and checkpoints after each step, and its stop if asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from areal.api.io_struct import StepInfo
from areal.utils.recover import RecoverInfo

from areal_cppo.config.recover import CheckpointConfig
from areal_cppo.folder import RunFolder
from areal_cppo.run.checkpoints import CheckpointStore
from areal_cppo.run.stop import Stopped, StopRequest
from areal_cppo.step.rank_state import random_states, set_random_states


class Keeper:
    """Observer, to be the last of all: a checkpoint holds that a step is done.

    Parameters
    ----------
    trainer
        The `CPPOTrainer`, not yet training.
    config
        The block `recover`; without its mode `on` only the ledger's file is written.
    folder
        Of the run.
    stop
        Asked after each step.
    last_step
        After it there is always a checkpoint.
    event
        Told of each checkpoint: a name and fields.
    """

    def __init__(
        self,
        trainer,
        config: CheckpointConfig,
        folder: RunFolder,
        stop: StopRequest,
        last_step: int,
        event: Callable[..., None],
    ):
        self.trainer, self.config, self.folder = trainer, config, folder
        self.stop, self.last_step, self.event = stop, last_step, event
        self.store = CheckpointStore(folder.recover, config.keep)
        self.step = 0
        self.saved = 0  # the step after which there is a checkpoint
        self._saved_at = time.monotonic()

    def go_on(self, path: Path, state: dict[str, Any]) -> None:
        """Bring trainer and servers to where a checkpoint was written."""
        trainer, step = self.trainer, state["step"]
        trainer.train_dataloader.load_state_dict(state["ledger"])
        for name in ("saver", "evaluator", "stats_logger"):
            getattr(trainer, name).load_state_dict(state[name])
        trainer.load_training_state(path, version=step)
        per_epoch = len(trainer.train_dataloader)
        trainer.recover_info = RecoverInfo(
            last_step_info=StepInfo(
                epoch=(step - 1) // per_epoch,
                epoch_step=(step - 1) % per_epoch,
                global_step=step - 1,
                steps_per_epoch=per_epoch,
            ),
            saver_info={},
            evaluator_info={},
            stats_logger_info={},
            dataloader_info={},
            checkpoint_info={},
        )
        set_random_states(_from_json(state["random"]))
        self.step = self.saved = step

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        places = self.trainer.rollout.places
        ledger = self.trainer.train_dataloader.ledger
        ledger.trained(places)
        self.folder.append(
            self.folder.ledger,
            {"step": step, "prompts": [ledger.problem(place) for place in places]},
        )
        self.step = step
        if self._due() or self.stop.asked or step == self.last_step:
            self.save()
        if self.stop.asked:
            raise self.stopped()

    def _due(self) -> bool:
        """Whether `recover` asks for a checkpoint after this step.

        AReaL's own control of such times fails on `freq_secs` in a process that is no
        rank (1.0.4: `interval_seconds` has no value).
        """
        epochs, steps, seconds = (
            getattr(self.config, f"freq_{name}") for name in ("epochs", "steps", "secs")
        )
        if not (epochs or steps or seconds):
            return True
        epoch, rest = divmod(self.step, len(self.trainer.train_dataloader))
        since = time.monotonic() - self._saved_at
        return bool(
            (epochs and rest == 0 and epoch % epochs == 0)
            or (steps and self.step - self.saved >= steps)
            or (seconds and since >= seconds)
        )

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if not self.config.on or self.saved == self.step:
            return
        trainer = self.trainer
        state = {
            "ledger": trainer.train_dataloader.state_dict(),
            "saver": trainer.saver.state_dict(),
            "evaluator": trainer.evaluator.state_dict(),
            "stats_logger": trainer.stats_logger.state_dict(),
            "random": _to_json(random_states()),
        }
        path = self.store.save(self.step, trainer.save_training_state, state)
        self.saved, self._saved_at = self.step, time.monotonic()
        self.event("checkpoint", step=self.step, folder=path.name)

    def stopped(self) -> Stopped:
        """What to raise once the checkpoint is written."""
        kept = (
            f"step {self.saved} is kept; start again with the same run_dir to go on"
            if self.config.on
            else "no checkpoint was written (recover.mode is off)"
        )
        return Stopped(f"stopped after step {self.step}, as asked: {kept}")


def _to_json(states: dict[str, Any]) -> dict[str, Any]:
    return {
        **states,
        "torch": states["torch"].tolist(),
        "cuda": None,  # the controller computes nothing
    }


def _from_json(states: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {**states, "torch": torch.tensor(states["torch"], dtype=torch.uint8)}
