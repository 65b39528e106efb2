"""The process that runs one experiment: AReaL's single controller, with CPPO.

Started by `areal_cppo.runs.supervisor`, which gives it a pipe. On the pipe it says, a
JSON object a line, what the run does; what AReaL prints goes to the run's log. Exit
status: 0 success, 2 a user's mistake, 1 anything else; before a non-zero exit it says
`error` with one line of text.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Protocol

import yaml

from areal_cppo.errors import RunError, UserError
from areal_cppo.runs.folder import CLOCK, RunFolder
from areal_cppo.runs.supervisor import PIPE
from areal_cppo.serving.cpu import enable_in_this_process, interpreter_environment
from areal_cppo.serving.processes import RUN_ID_VARIABLE, end_run

Say = Callable[..., None]


class Task(Protocol):
    """What an experiment needs to know of its data."""

    workflow_kwargs: dict[str, Any]

    def train_dataset(self): ...

    def evaluate(self, checkpoint: Path) -> dict[str, Any] | None:
        """Held-out accuracy of a checkpoint, or `None` where the task has none."""

    def write_samples(self, folder: RunFolder, checkpoints: dict[str, Path]) -> None:
        """A few responses of each checkpoint, token by token."""


class HeldOut:
    """Observer that evaluates on held-out problems every so many steps."""

    def __init__(self, task: Task, folder: RunFolder, say: Say, every: int):
        self.task = task
        self.folder = folder
        self.say = say
        self.every = every
        self.evaluated: set[int] = set()
        self.trainer = None  # set once it is there

    def evaluate(self, step: int, checkpoint: Path) -> None:
        result = self.task.evaluate(checkpoint)
        self.evaluated.add(step)
        if result is None:
            return
        self.folder.append(self.folder.evaluations, {"step": step, **result})
        self.say("evaluation", step=step, accuracy=result["accuracy"], n=result["n"])

    def checkpoint(self, step: int) -> Path:
        folder = self.folder.checkpoints / f"step-{step:05d}"
        return folder if folder.is_dir() else self.trainer.save_checkpoint(folder)

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        if self.every and step % self.every == 0:
            self.evaluate(step, self.checkpoint(step))


def run(
    config_path: str, overrides: list[str], say: Say, inherited: dict[str, str]
) -> None:
    """Run the experiment to its end.

    `inherited` is the environment this process was started with.
    """
    from areal_cppo.training.config import load_config
    from areal_cppo.training.preflight import check_settings, check_start
    from areal_cppo.training.tasks import load_task

    config = load_config(config_path, overrides)
    if config.cluster.n_gpus_per_node:
        # This process may have no GPU, but the workers it starts have one.
        os.environ.clear()
        os.environ.update(inherited)
    check_settings(config)
    check_start(config)
    model = Path(config.actor.path)
    task = load_task(config, lambda text: say("note", text=text))
    folder = RunFolder(config.run_dir)
    if folder.metrics.exists():
        raise UserError(
            f"run_dir: expected a new folder, found a run's metrics.jsonl in "
            f"{folder.path}; set another run_dir, so that nothing is lost"
        )
    folder.create()
    for needed in (
        config.cluster.fileroot,
        config.cluster.name_resolve.nfs_record_root,
    ):
        Path(needed).mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(asdict(config), default=str))  # no enums, no tuples
    folder.config.write_text(yaml.safe_dump(plain, sort_keys=False))
    say("run", folder=str(folder.path), steps=config.total_train_steps)

    from areal.utils import perf_tracer

    from areal_cppo.training.recorder import MetricsRecorder
    from areal_cppo.training.trainer import CPPOTrainer
    from areal_cppo.training.watch import RunWatch

    heldout = HeldOut(task, folder, say, config.heldout.every)
    if config.heldout.size:
        say("note", text="measuring held-out accuracy before training")
        heldout.evaluate(0, model)
    say("note", text="starting trainer and generation server")
    # Not as a context manager: after a failure it would first take everything down,
    # which may hang, and tell the reason last. The supervisor cleans up.
    trainer = CPPOTrainer(config, task.train_dataset())
    heldout.trainer = trainer
    watch = RunWatch(config.actor.cpl.top_fraction)
    recorder = MetricsRecorder(folder, say, watch)
    trainer.observers += [recorder]
    if config.heldout.size:
        trainer.observers += [heldout]
    # Lets the tracer's clock be set beside everybody else's.
    perf_tracer.instant(CLOCK, args={"unix_seconds": time.time()})
    say("training", servers=trainer.server_addresses(), start=recorder.start)
    trainer.train(
        workflow="areal_cppo.training.workflow.CPPOWorkflow",
        workflow_kwargs=task.workflow_kwargs,
    )
    last = heldout.checkpoint(recorder.steps)
    say("trained")
    trainer.close()
    say("stopped")
    if config.heldout.size and recorder.steps not in heldout.evaluated:
        say("note", text="measuring held-out accuracy after training")
        heldout.evaluate(recorder.steps, last)
    task.write_samples(folder, {"before": model, "after": last})


def dry_run(config_path: str, overrides: list[str], say: Say) -> None:
    """Check what can be checked without starting anything, and say what would be."""
    from areal_cppo.training.config import load_config
    from areal_cppo.training.model_size import count_parameters
    from areal_cppo.training.plan import describe as describe_plan
    from areal_cppo.training.preflight import check_settings
    from areal_cppo.training.tasks import load_task

    config = load_config(config_path, overrides)
    model_config = check_settings(config)
    parameters = count_parameters(config.actor.path)
    for line in describe_plan(config, model_config, parameters):
        say("note", text=line)
    dataset = load_task(config, lambda text: say("note", text=text)).train_dataset()
    fields = ", ".join(dataset[0])
    say("note", text=f"data: {len(dataset)} problems, each with {fields}")
    say("note", text="nothing was started")


def describe(error: BaseException) -> tuple[int, str]:
    """Exit status and the one line that tells a user what went wrong."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full or "No space left on device" in text:
        return 1, (
            "no space left on the disk of the run's folder: finished steps are kept; "
            "free some space or choose another folder with run_dir=... (demo: --out)"
        )
    return 1, text[:400]


def main(argv: list[str]) -> NoReturn:
    pipe = os.fdopen(int(os.environ.pop(PIPE)), "w", encoding="utf-8", buffering=1)

    def say(kind: str, **fields: Any) -> None:
        try:
            pipe.write(json.dumps({"kind": kind, **fields}) + "\n")
        except BrokenPipeError:  # the supervisor was killed: end the run in its place
            end_run(os.environ[RUN_ID_VARIABLE], grace_seconds=0.0)
            os._exit(1)

    os.environ.update(interpreter_environment(os.environ))
    inherited = dict(os.environ)
    enable_in_this_process()
    try:
        dry = "--dry-run" in argv
        config, *overrides = [word for word in argv if word != "--dry-run"]
        if dry:
            dry_run(config, overrides, say)
        else:
            run(config, overrides, say, inherited)
    except BaseException as error:
        traceback.print_exc()
        status, text = describe(error)
        say("error", text=text, status=status)
        sys.stderr.flush()
        os._exit(status)  # the supervisor ends whatever is left
    sys.stdout.flush()
    os._exit(0)  # not through atexit handlers that may wait for a dead thread


if __name__ == "__main__":
    main(sys.argv[1:])
