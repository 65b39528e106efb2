"""A run that is killed, stopped and gone on with equals one that was left alone.

Real trainer, controller, supervisor and weight updates; the responses come from
`deterministic.py`. Generation and training take turns (`max_head_offpolicyness: 0`):
otherwise it depends on the moment which policy a response is of.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.run import supervisor
from areal_cppo.run.supervisor import supervise
from areal_cppo.serving.processes import processes_of_run
from areal_cppo.tasks.problems import TRIANGLES

STEPS = 6
CONFIG = Path(__file__).parents[2] / "configs/triangles.yaml"
# Of a line of metrics.jsonl: what a clock says, and AReaL's own statistics.
TIMES = ("seconds", "time", "per_second", "idle", "stats")


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "CONTROLLER", "tests.run.deterministic")

    def run(name: str):
        folder = tmp_path / name
        settings = [
            f"run_dir={folder}",
            f"actor.path={TRIANGLES.checkpoint}",
            f"total_train_steps={STEPS}",
            "heldout.size=0",
            "rollout.max_head_offpolicyness=0",
            "recover.mode=on",
            "actor.optimizer.lr_scheduler_type=cosine",
            "train_dataset.batch_size=4",
            "gconfig.n_samples=4",
            "watchdog.start_seconds=900",
        ]
        events = []
        log = tmp_path / f"{name}.log"
        outcome = supervise(CONFIG, settings, log, events.append)
        return RunFolder(folder), outcome, log.read_text()[-3000:]

    return run


def weights_and_optimizer(folder: RunFolder, step: int, tmp_path: Path) -> dict:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    file = tmp_path / f"{folder.path.name}-{step}.pt"
    dcp_to_torch_save(folder.recover / f"step-{step:05d}/actor", file)
    return torch.load(file, weights_only=True)


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def numbers(folder: RunFolder) -> list[dict]:
    return [
        {k: v for k, v in line.items() if not any(word in k for word in TIMES)}
        for line in read_lines(folder.metrics)
    ]


class Interruptions(threading.Thread):
    """Kills a trainer rank within a step, then asks the run to stop."""

    def __init__(self, folder: RunFolder):
        super().__init__(daemon=True)
        self.folder = folder
        self.done: list[str] = []

    def run(self):
        started = self.after_step(2)
        ranks = [
            process
            for process in processes_of_run(started["run_id"])
            if "actor" in process.cmdline()
        ]
        for process in ranks:
            process.kill()
        self.done += ["killed"] * len(ranks)
        while not self.happened("resumed"):
            time.sleep(0.2)
        self.after_step(3)
        os.kill(os.getpid(), signal.SIGUSR1)
        self.done.append("asked to stop")

    def after_step(self, step: int) -> dict:
        while len(list(read_lines(self.folder.metrics))) < step:
            time.sleep(0.1)
        return self.happened("run_started")

    def happened(self, event: str) -> dict:
        lines = read_lines(self.folder.events)
        return next((line for line in lines if line["event"] == event), {})


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_resumed_equals_uninterrupted(run, tmp_path):
    whole, outcome, log = run("whole")
    assert outcome.status == 0, (outcome, log)

    interruptions = Interruptions(RunFolder(tmp_path / "cut"))
    interruptions.start()
    cut, outcome, log = run("cut")
    interruptions.join(10)
    assert interruptions.done == ["killed", "asked to stop"]
    assert outcome.status == 75, (outcome, log)
    assert len(numbers(cut)) < STEPS
    cut, outcome, log = run("cut")
    assert outcome.status == 0, (outcome, log)

    events = [line["event"] for line in read_lines(cut.events)]
    assert events.count("resumed") == 2 and "stop_requested" in events
    # The same problems in the same steps, each once.
    assert cut.ledger.read_text() == whole.ledger.read_text()
    places = [p for line in read_lines(cut.ledger) for p in line["prompts"]]
    assert len(places) == len({tuple(place) for place in places}) == 4 * STEPS
    # The same losses, gradients, rewards and learning rates.
    assert numbers(cut) == numbers(whole)
    assert [line["step"] for line in numbers(cut)] == list(range(1, STEPS + 1))
    assert len({line["lr"] for line in numbers(cut)}) > 2  # the schedule went on
    # The same weights and optimiser, to the last bit.
    states = [weights_and_optimizer(f, STEPS, tmp_path) for f in (whole, cut)]
    assert equal(*states)
    files = [
        f.checkpoints / f"step-{STEPS:05d}/model.safetensors" for f in (whole, cut)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    # And they are no longer those of the beginning.
    before = (TRIANGLES.checkpoint / "model.safetensors").read_bytes()
    assert files[0].read_bytes() != before
    left = [json.loads(line)["step"] for line in cut.ledger.open()]
    assert left == list(range(1, STEPS + 1))
