"""One run of a study, in a process of its own: one arm, one seed, one task."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from areal.api import FinetuneSpec
from areal.infra.platforms import current_platform

from areal_cppo.bench.quiet import quiet
from areal_cppo.bench.train_step import train_step
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.rollout.augmentation import Augmenter
from areal_cppo.run.recorder import MetricsRecorder
from areal_cppo.step.actor import CPPOActor
from areal_cppo.studies.evaluate import Evaluator
from areal_cppo.studies.folder import StudyRunFolder
from areal_cppo.studies.gradients import gradient_moments
from areal_cppo.studies.preflight import load_run_config, samples_per_step
from areal_cppo.studies.rollout import (
    Policies,
    Seen,
    StudyBatch,
    generator,
    make_batch,
    sample_seen,
)
from areal_cppo.tasks import sampling
from areal_cppo.tasks.problems import ReadingTask, reading_task

Tell = Callable[[int], None]  # the number of a finished step


def run_study_run(
    folder: StudyRunFolder, tell: Tell, task: ReadingTask | None = None
) -> None:
    """Make a run, from the start.

    Parameters
    ----------
    folder
        Where its files go, started.
    tell
        Told the number of each finished step.
    task
        If its model is not the one that comes with the package.
    """
    run = folder.run
    task = task or reading_task(run.task)
    config = load_run_config(
        run.overrides, seed=run.seed, steps=run.steps, checkpoint=task.checkpoint
    )
    with quiet(), one_process_actor(config, run.steps) as actor:
        StudyRun(folder, task, config, actor).go(tell)


@contextmanager
def one_process_actor(config: CPPOConfig, steps: int) -> Iterator[CPPOActor]:
    """The actor of a configuration, ready to train for `steps` steps; on a GPU if this
    process sees one."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    # No port: runs that start at the same time cannot take each other's.
    dist.init_process_group(
        current_platform.communication_backend,
        store=dist.HashStore(),
        rank=0,
        world_size=1,
    )
    actor = CPPOActor(config.actor)
    try:
        actor.create_process_group()
        batch = config.train_dataset.batch_size
        actor.initialize(
            None,
            FinetuneSpec(
                total_train_epochs=1,
                dataset_size=batch * max(steps, 1),
                train_batch_size=batch,
            ),
        )
        actor.set_version(0)
        yield actor
    finally:
        actor.destroy()
        dist.destroy_process_group()


class StudyRun:
    """The state of a run.

    Parameters
    ----------
    folder, task, config
        Its own.
    actor
        Fresh.
    """

    def __init__(
        self,
        folder: StudyRunFolder,
        task: ReadingTask,
        config: CPPOConfig,
        actor: CPPOActor,
    ):
        self.folder = folder
        self.run = folder.run
        self.task = task
        self.config = config
        self.actor = actor
        bound = config.rollout.max_head_offpolicyness
        self.policies = Policies(task.checkpoint, bound, actor.device)
        self.policies.remember(actor)
        own = config.augmentation
        seed, steps = config.actor.view_seed, self.run.steps
        self.augmenter = Augmenter(own, seed, steps) if own.on else None
        self.evaluator = Evaluator(self.policies.model, task, config)
        self.recorder = MetricsRecorder(folder, lambda *_, **__: None)
        self.clock = Clock()
        self.refused = 0
        self.began = time.monotonic()

    def go(self, tell: Tell) -> None:
        """Train, evaluate, and say that it is finished."""
        self._look(0)
        for step in range(1, self.run.steps + 1):
            with self.clock:
                self._train(step)
            self._look(step)
            tell(step)
        if self.run.keep_checkpoint:
            self._save(self.folder.path / "checkpoint")
        self.folder.write(
            self.folder.result,
            {
                "steps": self.run.steps,
                "samples": self._samples(),
                "refused": self.refused,
                "seconds": self.clock.seconds,
                "cpu_seconds": self.clock.cpu_seconds,
                "wall_seconds": time.monotonic() - self.began,
            },
        )

    def _train(self, step: int) -> None:
        """One step, numbered from 1, as AReaL's trainer makes it."""
        version = self.actor.get_version()
        batch = self._batch(step)
        self.refused += batch.refused
        if batch.items:  # else a policy has collapsed, and has nothing to learn from
            train_step(self.actor, batch.items)
            self.recorder.step_done(step, self.actor.export_stats())
        self.actor.set_version(version + 1)
        self.policies.remember(self.actor)

    def _batch(self, step: int) -> StudyBatch:
        """Responses to that step's problems, as the policy that may be had samples."""
        config, version = self.config, self.actor.get_version()
        size = config.train_dataset.batch_size
        problems = [
            self.task.make_problem(self.run.seed, index, "train")
            for index in range((step - 1) * size, step * size)
        ]
        pixels, samples = sampling.problem_pixels(problems), config.gconfig.n_samples
        sampled_by = self.policies.behaviour(version)
        seen = None
        if self.augmenter is not None:
            seen = Seen.of(self.augmenter, problems, samples, sampled_by)
        draw = partial(
            sampling.sample,
            self.policies.model,
            prompts=[problem.prompt for problem in problems],
            temperature=config.actor.temperature,
            generator=generator(self.run.seed, step),
            max_new_tokens=config.gconfig.max_new_tokens,
        )
        return make_batch(
            problems,
            pixels,
            sample_seen(draw, pixels, seen, samples),
            sampled_by,
            config.reward,
            seen,
            config.augmentation.train_on,
        )

    def _look(self, step: int) -> None:
        """Evaluate and detect where the study asks for it."""
        last = step == self.run.steps
        first, plan = step == 0, self.run.evaluate
        due = _due(step, plan.every, last) or first
        detection = self.run.detection
        detects = detection and (_due(step, detection.every, last) or first)
        if not due and not detects:
            return
        self.policies.use(self.actor.get_version())
        if due:
            count = plan.final if last else plan.problems
            if first and not last and not plan.every:  # the start: no shifts
                plan = replace(plan, shifts=[], means={})
            records = self.evaluator.accuracy(plan, count)
            if plan.gradients:
                # Of problems that no step has, the same for all arms.
                after = range(self.run.steps + 1, self.run.steps + 1 + plan.gradients)
                batches = (self._batch(number).items for number in after)
                records[0] |= gradient_moments(self.actor, batches)
                self.policies.use(self.actor.get_version())
            for record in records:
                self._write("evaluations", step, record)
        if detects:
            by_score, by_role = self.evaluator.detection(
                detection,
                self.folder.failures(step),
                after=step > 0,
                title=f"{self.run.task}, {self.run.arm}, step {step}",
            )
            for name, records in (("detection", by_score), ("roles", by_role)):
                for record in records:
                    self._write(name, step, record)

    def _write(self, name: str, step: int, record: dict[str, Any]) -> None:
        run = self.run
        line = {
            "study": run.study,
            "task": run.task,
            "arm": run.arm,
            "seed": run.seed,
            "step": step,
            "samples": self._samples(step),
            "seconds": round(self.clock.seconds, 3),
            "cpu_seconds": round(self.clock.cpu_seconds, 3),
        }
        self.folder.append(self.folder.file(name), line | record)

    def _samples(self, steps: int | None = None) -> int:
        """Responses generated in so many steps, the refused included."""
        steps = self.run.steps if steps is None else steps
        return steps * samples_per_step(self.config)

    def _save(self, folder: Path) -> None:
        """A model folder: the last weights, and all else as it was at the start."""
        shutil.copytree(self.task.checkpoint, folder)
        self.policies.use(self.actor.get_version())
        self.policies.model.save_pretrained(folder)


class Clock:
    """Seconds of training, by the wall and of the processor, evaluations left out."""

    def __init__(self):
        self.seconds = self.cpu_seconds = 0.0
        self._start = (math.nan, math.nan)

    def __enter__(self):
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        wall, cpu = self._start
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu


def _due(step: int, every: int, last: bool) -> bool:
    return last or bool(every and step and step % every == 0)
