"""Runs of a study, some at a time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from areal_cppo.studies.folder import StudyFolder
from areal_cppo.studies.spec import Run

Note = Callable[[int, str], None]

_POLL_SECONDS = 0.5
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # the models are tiny: a GPU would only slow them
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # numpy's and scipy's own threads
    "MKL_NUM_THREADS": "1",
}


@dataclass
class _Worker:
    run: Run
    process: BaseProcess
    steps_done: Any  # a shared int

    @property
    def share(self) -> float:
        """How much of the run is done."""
        return self.steps_done.value / max(self.run.steps, 1)


class Pool:
    """Makes runs.

    Parameters
    ----------
    folder
        The study's.
    jobs
        Runs at a time.
    seconds
        How long a run takes, roughly: what counts is how runs relate.
    note
        Told how many runs have ended, and in a line how far the study is, whenever
        that changes.
    """

    def __init__(
        self,
        folder: StudyFolder,
        jobs: int,
        seconds: Callable[[Run], float],
        note: Note,
    ):
        self.folder = folder
        self.jobs = jobs
        self.seconds = seconds
        self.note = note
        self.failed: list[tuple[Run, Path]] = []  # runs, and their logs
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["areal_cppo.studies.worker"])

    def make(self, runs: Sequence[Run]) -> None:
        """Make runs in their order; those that failed are in `failed` afterwards.

        Ctrl-C ends those that are under way, and goes on its way.
        """
        os.environ.update(_ENVIRONMENT)
        waiting = list(runs)
        work = sum(self.seconds(run) for run in runs)
        finished, began, said = 0.0, time.monotonic(), ""
        count = len(runs)
        try:
            while waiting or self._workers:
                while waiting and len(self._workers) < self.jobs:
                    self._start(waiting.pop(0))
                time.sleep(_POLL_SECONDS)
                for worker in self._reap():
                    finished += self.seconds(worker.run)
                under_way = sum(w.share * self.seconds(w.run) for w in self._workers)
                left = _left(finished + under_way, work, time.monotonic() - began)
                over = count - len(waiting) - len(self._workers)
                text = f"{over} of {count} runs done{left if over < count else ''}"
                if text != said:
                    self.note(over, text)
                    said = text
        finally:
            for worker in self._workers:
                worker.process.kill()
            for worker in self._workers:
                worker.process.join()
            self._workers.clear()

    def _start(self, run: Run) -> None:
        steps_done = self._context.Value("i", 0, lock=False)
        # Imported by the server, not here: this process needs no trainer.
        process = self._context.Process(
            target=_work, args=(self.folder.run(run), steps_done), daemon=True
        )
        process.start()
        self._workers.append(_Worker(run, process, steps_done))

    def _reap(self) -> list[_Worker]:
        """Workers that have ended since the last call."""
        ended = [w for w in self._workers if w.process.exitcode is not None]
        for worker in ended:
            self._workers.remove(worker)
            if worker.process.exitcode != 0:
                self.failed.append((worker.run, self.folder.run(worker.run).log))
        return ended


def _work(folder, steps_done) -> None:
    from areal_cppo.studies.worker import work

    work(folder, steps_done)


def _left(done: float, work: float, elapsed: float) -> str:
    """The time left, once enough is done to tell."""
    if done < 0.02 * work:
        return ""
    return f", about {duration((work - done) / done * elapsed)} left"


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `1 h 20 min`: rounded, for people."""
    if seconds < 90:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
