"""Whole CPPO runs as jobs of a real Slurm: trainer on one node, server on the other.

The model is the demo's, the stack real. What a checkpoint restores is for tests/runs;
here it counts that whatever Slurm does to a job, its metrics end up as if nothing had
happened, and nothing is left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.cluster import URGENT, Cluster

ROOT = Path(__file__).parents[2]
# Starting takes half a minute on two free cores, a step five seconds.
START_SECONDS = 900  # twenty times that, on a shared machine

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.sglang,
    pytest.mark.slow,
    pytest.mark.timeout(5400),
]


@dataclass
class Submitted:
    """A job, the folder it was submitted from and the number of its train steps."""

    cluster: Cluster
    id: str
    folder: Path
    steps: int

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / f"triangles-{self.id}"

    def steps_done(self) -> list[int]:
        """Numbers of the steps in metrics.jsonl, in order."""
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

    def state(self) -> dict[str, str]:
        return self.cluster.job(self.id)

    def output(self) -> str:
        return "".join(p.read_text() for p in self.folder.glob(f"logs/*-{self.id}.out"))

    def wait(self, condition, seconds: float, what: str) -> None:
        try:
            self.cluster.wait(condition, seconds, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.output()}") from None

    def wait_for_step(self, number: int) -> None:
        self.wait(lambda: number in self.steps_done(), START_SECONDS, f"step {number}")

    def wait_for_restart(self, number: int) -> None:
        self.wait(
            lambda: self.state()["Restarts"] == str(number), 300, f"restart {number}"
        )

    def wait_for_the_end(self) -> None:
        running = (
            *("PENDING", "RUNNING", "SIGNALING", "COMPLETING"),
            *("CONFIGURING", "SUSPENDED"),
        )
        self.wait(
            lambda: self.state()["JobState"] not in running, START_SECONDS, "the end"
        )


@pytest.fixture
def submit(slurm_cluster, tmp_path):
    """Submits a run of so many steps with the command; cancels it afterwards."""
    jobs = []

    def submit_run(steps: int) -> Submitted:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "areal_cppo", "slurm", "--nodes=2", "--submit"),
                *("--time=60", "--config", str(ROOT / "configs/triangles.yaml")),
                f"total_train_steps={steps}",
                "heldout.size=0",
                "recover.freq_steps=1",
                f"actor.path={ROOT}/areal_cppo/tasks/triangles/checkpoint",
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        jobs.append(Submitted(slurm_cluster, done.stdout.strip(), tmp_path, steps))
        return jobs[-1]

    yield submit_run
    for job in jobs:
        slurm_cluster.run("scancel", job.id)


def check_finished(job: Submitted) -> None:
    """The job ended well, has every step once, and left nothing running."""
    state = job.state()
    assert state["JobState"] == "COMPLETED", job.output()
    assert state["ExitCode"] == "0:0"
    assert job.steps_done() == list(range(1, job.steps + 1)), job.output()
    summary = json.loads((job.run_dir / "summary.json").read_text())
    assert summary["steps"] == job.steps
    job.wait(lambda: not job.cluster.processes(job.id), 120, "its processes' end")


def test_on_two_nodes_stopped_preempted_and_with_a_failed_node(submit):
    job = submit(steps=8)
    job.wait_for_step(1)
    shown = job.cluster.run("squeue", "--steps", "-h", "-j", job.id, "-o", "%j %N")
    steps = dict(line.split() for line in shown.splitlines())
    assert (steps["actor-0"], steps["rollout-0"]) == ("n0", "n1")
    job.wait_for_step(2)
    # As before the time limit: stops after the step in progress, is queued again.
    job.cluster.run("scancel", "--signal=USR1", "--batch", job.id)
    job.wait_for_restart(1)
    kept = job.steps_done()[-1]
    job.wait_for_step(kept + 1)
    # A job of another partition wants the nodes.
    urgent = job.cluster.run(
        *("sbatch", "--parsable", f"--partition={URGENT}", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 2"),
    ).strip()
    job.wait_for_restart(2)
    job.wait(
        lambda: job.cluster.job(urgent)["JobState"] == "COMPLETED", 300, "urgent job"
    )
    job.wait_for_step(kept + 2)
    # The batch script's own node is gone: nobody is left there to decide anything.
    job.cluster.kill_node("n0")
    job.wait_for_restart(3)
    job.cluster.start_node("n0")
    job.cluster.wait_for_nodes()
    job.wait_for_the_end()
    check_finished(job)
    said = job.output()
    assert said.count("stopped before the time limit; queued again") == 1
    assert said.count("going on after step") >= 3  # more if a worker died, too
