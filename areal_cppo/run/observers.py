"""Who is told of each finished step: guard, held-out evaluation, keeper.

And `areal_cppo.run.recorder`. A run tells them in an order of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from areal.api.io_struct import StepInfo
from areal.utils.recover import RecoverInfo

from areal_cppo.config.experiment import CheckpointConfig
from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.metrics import UPDATE
from areal_cppo.rollout.ledger_controller import GaveUp
from areal_cppo.run.checkpoints import CheckpointStore
from areal_cppo.run.stop import Stopped, StopRequest
from areal_cppo.step.rank_state import random_states, set_random_states

Say = Callable[..., None]

_WATCHED = (f"{UPDATE}actor_loss/avg", f"{UPDATE}grad_norm")
_SUCCESS = f"{UPDATE}update_successful"


class Observer(Protocol):
    """Told what happens in a run; called in the controller, between train steps."""

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        """Step `step` (1-based) is finished; `stats` as AReaL logs them."""


class NonFinite(GaveUp):
    """The loss or its gradient is not a number, again and again."""


class NonFiniteGuard:
    """Observer that ends a run whose loss or gradient stays not a number.

    Raises
    ------
    NonFinite
        After `limit` such steps in a row.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.in_a_row = 0

    def step_done(self, step: int, stats: Mapping[str, float]) -> None:
        wrong = [key for key in _WATCHED if not isfinite(stats.get(key, 0.0))]
        if stats.get(_SUCCESS, 1.0) == 0.0:
            wrong.append(_SUCCESS)
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        if self.in_a_row >= self.limit:
            raise NonFinite(
                f"expected a finite loss and gradient, found {self.in_a_row} steps "
                f"in a row, up to step {step}, without ({wrong[0].split('/')[-1]}): "
                "lower the learning rate or compute in a wider dtype, and start again "
                "to go on from a checkpoint (limit: watchdog.nonfinite_steps)"
            )


class Task(Protocol):
    """What an experiment needs to know of its data."""

    workflow_kwargs: dict[str, Any]

    def train_dataset(self): ...

    def valid_dataset(self):
        """Problems to validate on while it trains; `None`: there are none."""

    def evaluate(self, checkpoint: Path) -> dict[str, Any] | None:
        """Held-out accuracy of a checkpoint, or `None` where the task has none."""


class HeldOutEvaluation:
    """Observer that evaluates on held-out problems every so many steps."""

    def __init__(self, task: Task, folder: RunFolder, say: Say, every: int):
        self.task = task
        self.folder = folder
        self.say = say
        self.every = every
        done = read_lines(folder.evaluations)
        self.evaluated = {record["step"] for record in done}
        self.trainer = None  # set once it is there

    def evaluate(self, step: int, checkpoint: Path) -> None:
        result = self.task.evaluate(checkpoint)
        self.evaluated.add(step)
        if result is None:
            return
        self.folder.append(self.folder.evaluations, {"step": step, **result})
        told = {name: result[name] for name in ("accuracy", "n")}
        self.say("evaluation", step=step, of="heldout", **told)

    def checkpoint(self, step: int) -> Path:
        folder = self.folder.checkpoint(step)
        return folder if folder.is_dir() else self.trainer.save_checkpoint(folder)

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        if self.every and step % self.every == 0:
            self.evaluate(step, self.checkpoint(step))


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
    return {**states, "torch": torch.tensor(states["torch"], dtype=torch.uint8)}
