"""Runs of a study, some at a time, each in a process of its own.

Processes are forked from a server that has imported what a run needs. A run that fails,
or is killed, takes no other with it, as it would one of `concurrent.futures`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from areal_cppo.studies.folder import StudyFolder, StudyRunFolder
from areal_cppo.studies.spec import Run

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
    def left(self) -> float:
        """How much of the run is still to be done."""
        return 1 - self.steps_done.value / max(self.run.steps, 1)


def make_runs(
    folder: StudyFolder,
    runs: Sequence[Run],
    jobs: int,
    seconds: Callable[[Run], float],
    note: Callable[[int, str], None],
) -> list[Run]:
    """Make runs in their order; returns those that failed.

    Ctrl-C ends those that are under way, and goes on its way.

    Parameters
    ----------
    folder
        The study's.
    runs, jobs
        All, and how many at a time.
    seconds
        How long a run takes, roughly: what counts is how runs relate.
    note
        Told how many runs have ended, and in a line how far the study is, whenever
        that changes.
    """
    os.environ.update(_ENVIRONMENT)
    waiting, workers, failed = list(runs), [], []
    work, began, said = sum(map(seconds, runs)), time.monotonic(), ""
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                run = waiting.pop(0)
                workers.append(_start(run, folder.run(run)))
            wait([worker.process.sentinel for worker in workers], _POLL_SECONDS)
            for worker in [w for w in workers if w.process.exitcode is not None]:
                workers.remove(worker)
                if worker.process.exitcode:
                    failed.append(worker.run)
            left = sum(map(seconds, waiting))
            left += sum(worker.left * seconds(worker.run) for worker in workers)
            over = len(runs) - len(waiting) - len(workers)
            text = f"{over} of {len(runs)} runs done"
            if over < len(runs) and work - left >= 0.02 * work:  # enough to tell
                elapsed = time.monotonic() - began
                text += f", about {duration(left / (work - left) * elapsed)} left"
            if text != said:
                note(over, text)
                said = text
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
    return failed


def _start(run: Run, folder: StudyRunFolder) -> _Worker:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["areal_cppo.studies.worker"])
    steps_done = context.Value("i", 0, lock=False)
    process = context.Process(target=_work, args=(folder, steps_done), daemon=True)
    process.start()
    return _Worker(run, process, steps_done)


def _work(folder: StudyRunFolder, steps_done: Any) -> None:
    # Imported by the server, not above: the command's process needs no trainer.
    from areal_cppo.studies.worker import work

    work(folder, steps_done)


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `1 h 20 min`: rounded, for people."""
    if seconds < 90:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
