"""One experiment in the controller's process, from set-up to the last evaluation."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import yaml
from areal.utils import perf_tracer

from areal_cppo.cluster.worker import apply_listen_host
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.doctor.machine import machine_words
from areal_cppo.errors import RunError
from areal_cppo.folder import (
    CLOCK,
    FINISHED,
    STARTED,
    WARNING,
    RunFolder,
    read_lines,
    replace_file,
)
from areal_cppo.inspection.run_samples import write_heldout_samples
from areal_cppo.report.settings import flatten
from areal_cppo.rollout.first_look import try_reward
from areal_cppo.rollout.ledger import PromptLedger
from areal_cppo.run.checkpoints import CheckpointStore, DiskFull
from areal_cppo.run.claim import check_new
from areal_cppo.run.health import RunWatch
from areal_cppo.run.observers import (
    HeldOutEvaluation,
    Keeper,
    NonFinite,
    NonFiniteGuard,
    Say,
    Task,
)
from areal_cppo.run.recorder import MetricsRecorder
from areal_cppo.run.samples import SampleObserver
from areal_cppo.run.stop import STOPPED, HealthPoll, Stopped, StopRequest
from areal_cppo.run.trainer import CPPOTrainer
from areal_cppo.run.validation import Validation
from areal_cppo.serving.processes import RUN_ID_VARIABLE
from areal_cppo.serving.redaction import withhold
from areal_cppo.tasks.experiment import load_task

WORKFLOW = "areal_cppo.rollout.workflow.CPPOWorkflow"


class Experiment:
    """An experiment, begun or gone on with.

    Parameters
    ----------
    config
        Checked.
    say
        Tells the supervisor: a kind and fields.

    Raises
    ------
    UserError
        The run's folder holds a run that isn't to be gone on with.
    """

    def __init__(self, config: CPPOConfig, say: Say):
        self.config, self.say = config, say
        self.folder = RunFolder(config.run_dir)
        check_new(self.folder, config.recover.on)
        self.trainer: CPPOTrainer | None = None
        self.training = False

    def note(self, text: str) -> None:
        self.say("note", text=text)
        if text.startswith("warning: "):
            self.folder.event(WARNING, text=text.removeprefix("warning: "))

    def run(self) -> None:
        """To the end; raises `Stopped` if asked to stop before."""
        try:
            self._run()
        except Exception as error:
            stopped = isinstance(error, Stopped) or self.trainer is None
            cause = None if stopped else self.trainer.rollout.cause()
            if cause is not None:
                raise cause from error  # it knows more than whoever met it first
            raise

    def _run(self) -> None:
        config, folder = self.config, self.folder
        task = load_task(config, self.note)
        self._prepare_folders()
        found = self._find_checkpoint()
        first = found[1]["step"] if found else 0
        dataset = task.train_dataset()
        if found:  # refuse other data before anything is started
            order = len(dataset), config.seed, config.train_dataset.shuffle
            PromptLedger(*order).load_state_dict(found[1]["ledger"])
        if folder.finished() and first >= config.steps_on(len(dataset)):
            self.note(
                f"all {first} steps are done; for more raise total_train_epochs or "
                "total_train_steps"
            )
            return
        if found is None and folder.metrics.exists():
            aside = folder.set_aside()
            self.note(f"no checkpoint to go on from: what was there is in {aside.name}")
        folder.cut(first)
        self._write_config()
        run_id = os.environ.get(RUN_ID_VARIABLE)
        machine = machine_words()
        folder.event(STARTED, run_id=run_id, pid=os.getpid(), machine=machine)
        if found:
            folder.event("resumed", step=first)
            self.note(f"going on after step {first}")

        heldout = HeldOutEvaluation(task, folder, self.say, config.heldout.every)
        if config.heldout.size and 0 not in heldout.evaluated:
            self.note("measuring held-out accuracy before training")
            heldout.evaluate(0, Path(config.actor.path))
        problems = task.valid_dataset() if config.validation.every else None
        if config.reward.function:
            for line in try_reward(task.workflow_kwargs, dataset[0]):
                self.note(line)
        self.note("starting trainer and generation server")
        apply_listen_host(config)
        # Not as a context manager: after a failure it would first take everything down,
        # which may hang, and tell the reason last. The supervisor cleans up.
        trainer = self.trainer = heldout.trainer = CPPOTrainer(
            config, dataset, end_now=self._end_now
        )
        keeper, recorder = self._observe(trainer, heldout, found)
        silent = config.watchdog.silent_seconds
        workers = HealthPoll(trainer.workers(), silent, self._end_now)
        workers.start()
        recorder.go_on(read_lines(folder.metrics))
        if problems is not None:
            trainer.validation = self._validation(task, problems, keeper)
        # Lets the tracer's clock be set beside everybody else's.
        clock = {"unix_seconds": time.time(), "offset": recorder.seconds}
        perf_tracer.instant(CLOCK, args=clock)
        servers = trainer.server_addresses()
        self.say("training", servers=servers, start=recorder.start)
        folder.event("training", servers=servers, workers=trainer.workers())
        if trainer.validation is not None:
            trainer.validation.begin(first)
        self._train(trainer, keeper, task.workflow_kwargs)
        last = heldout.checkpoint(recorder.steps)
        if trainer.validation is not None:
            trainer.validation.forget()
        self.say("trained")
        workers.end()
        trainer.close()
        self.say("stopped")
        if config.heldout.size and recorder.steps not in heldout.evaluated:
            self.note("measuring held-out accuracy after training")
            heldout.evaluate(recorder.steps, last)
        checkpoints = {"before": Path(config.actor.path), "after": last}
        write_heldout_samples(folder, task, checkpoints)
        folder.event(FINISHED, step=recorder.steps)

    def _prepare_folders(self) -> None:
        config = self.config
        self.folder.create()
        for needed in (
            config.cluster.fileroot,
            config.cluster.name_resolve.nfs_record_root,
        ):
            Path(needed).mkdir(parents=True, exist_ok=True)
        # Before the supervisor hears of the folder: it may ask at once. Others may have
        # asked since this process was started.
        started = psutil.Process().create_time()
        self.stop = StopRequest(self.folder.stop, started, self._on_stop)
        watchdog = config.watchdog
        self.say(
            "run",
            folder=str(self.folder.path),
            steps=config.total_train_steps,
            limits={
                "start": watchdog.start_seconds,
                "step": watchdog.step_seconds,
                "end": watchdog.end_seconds,
                "silent": watchdog.silent_seconds,
            },
            retries=config.recover.retries if config.recover.on else 0,
            grace=config.recover.grace_seconds if config.recover.on else 0.0,
        )

    def _find_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        recover = self.config.recover
        if not recover.on:
            return None
        return CheckpointStore(self.folder.recover, recover.keep, self.note).newest()

    def _write_config(self) -> None:
        """Write `config.yaml`, without secrets, and say what has changed in it."""
        # No enums, no tuples.
        plain = json.loads(json.dumps(asdict(self.config), default=str))
        withhold(plain)
        file = self.folder.config
        if file.is_file():
            old = flatten(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
            new = flatten(plain)
            changed = [key for key in new if old.get(key) != new[key]]
            if changed:
                shown = ", ".join(
                    f"{key}: {old.get(key)!r} -> {new[key]!r}" for key in changed[:5]
                )
                more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
                self.note(f"the configuration is not what it was: {shown}{more}")
        replace_file(file, yaml.safe_dump(plain, sort_keys=False))

    def _observe(self, trainer: CPPOTrainer, heldout: HeldOutEvaluation, found):
        config, folder = self.config, self.folder
        steps = len(trainer.train_dataloader) * config.total_train_epochs
        last = min(steps, config.total_train_steps or steps)
        recorder = MetricsRecorder(
            folder,
            self.say,
            RunWatch(config.actor.cpl.top_fraction, config.actor.cpl.tau),
            lambda step: step == last,  # one that is stopped goes on, as if it were not
        )
        keeper = Keeper(trainer, config.recover, folder, self.stop, last, folder.event)
        if found:
            keeper.go_on(*found)
        trainer.observers += [recorder, NonFiniteGuard(config.watchdog.nonfinite_steps)]
        trainer.observers += [SampleObserver(trainer, config.samples, folder, last)]
        if config.heldout.size:
            trainer.observers += [heldout]
        trainer.observers += [keeper]
        trainer.rollout.most_failed_groups = config.watchdog.failed_groups
        trainer.rollout.listeners.append(self._on_server_event)
        return keeper, recorder

    def _validation(self, task: Task, problems, keeper: Keeper) -> Validation:
        rollout = self.trainer.rollout
        return Validation(
            self.config,
            problems,
            task.workflow_kwargs["reward_fn"],
            self.folder,
            self.say,
            self.trainer,
            keeper,
            lambda: self.stop.asked or rollout.failure is not None,
        )

    def _train(self, trainer: CPPOTrainer, keeper: Keeper, workflow_kwargs) -> None:
        self.training = True
        try:
            if self.stop.asked:  # between the last look and now
                raise keeper.stopped()
            workflow_kwargs = workflow_kwargs | {"steps": keeper.last_step}
            if self.config.samples.every:
                workflow_kwargs["samples"] = str(self.folder.pending)
            trainer.train(workflow=WORKFLOW, workflow_kwargs=workflow_kwargs)
        except (NonFinite, DiskFull):
            raise
        except RunError as error:
            # It comes from generation: the trainer can still write what it has.
            try:
                keeper.save()
            except Exception as second:
                self.note(f"no checkpoint was written: {second}")
            raise (keeper.stopped() if isinstance(error, Stopped) else error) from None
        finally:
            self.training = False

    def _on_server_event(self, event: dict[str, Any]) -> None:
        """Something became of a generation server; in a thread of the watch's own."""
        self.folder.append(self.folder.events, event)
        what = event["event"]
        if what != "request_resent":  # there may be many
            why = f" ({event['reason']})" if event.get("reason") else ""
            name = what.removeprefix("server_")
            self.note(f"generation server {event['server']}: {name}{why}")

    def _on_stop(self) -> None:
        """Asked to stop; in a thread of its own."""
        self.folder.event("stop_requested")
        if self.training:
            self.trainer.rollout.end_run(Stopped("stopped, as asked"))
            return
        self.say("error", text="stopped, as asked", status=STOPPED, restart=False)
        os._exit(STOPPED)

    def _end_now(self, error: RunError) -> None:
        """The main thread may be waiting for somebody who is gone: end without it."""
        self.folder.event("watchdog", reason=str(error))
        self.say("error", text=str(error), status=error.exit_status, restart=True)
        sys.stderr.flush()
        os._exit(error.exit_status)
