"""A run as a job of a real Slurm on two virtual nodes, and what Slurm does to it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.chaos.faults import RESTARTS, Fault
from tests.chaos.measure import Progress, Record, close
from tests.chaos.problems import write_problems
from tests.chaos.session import QUICK, Say, Session
from tests.chaos.stack import PROBLEMS, ROOT, START_SECONDS, Stack
from tests.cluster.cluster import URGENT, Cluster, SlurmMissing, install

SLURM_FAULTS = ("slurm-requeue", "slurm-preempt", "slurm-node-lost")
TITLES = {
    "slurm-requeue": "Slurm: SIGUSR1 before the time limit, requeued",
    "slurm-preempt": "Slurm: preempted by another partition's job",
    "slurm-node-lost": "Slurm: the batch script's node loses power",
}
# The job ends after a fixed number of steps: its faults have to happen before.
_STEPS_PER_FAULT = 25
_MINUTES = 60
_RUNNING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")


class _Job:
    """What `Stack` asks of a process, of a job."""

    pid = -1

    def __init__(self, cluster: Cluster, job_id: str):
        self.cluster, self.id = cluster, job_id
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            state = self.cluster.job(self.id)
        except subprocess.SubprocessError:
            return None
        if state["JobState"] not in _RUNNING:
            code, _, number = state["ExitCode"].partition(":")
            self.returncode = -int(number) if int(number) else int(code)
            if state["JobState"] != "COMPLETED" and self.returncode == 0:
                self.returncode = -1
        return self.returncode

    def wait(self) -> int | None:
        return self.returncode


class SlurmStack(Stack):
    """A run that Slurm starts; its processes are those of the job."""

    cluster: Cluster

    def start(self) -> None:
        settings = [word for word in self.command if "=" in word]
        command = [
            *(sys.executable, "-m", "areal_cppo", "slurm", "--nodes=2", "--submit"),
            *(f"--time={_MINUTES}", "--config", str(ROOT / "configs/triangles.yaml")),
            *settings,
            "rollout.backend=sglang:d1p1t1",
        ]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.cluster.environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SlurmMissing(f"areal-cppo slurm: {done.stderr.strip()[-300:]}")
        self.process = _Job(self.cluster, done.stdout.strip().split()[-1])
        self.output = self.folder / "logs" / "none"

    def processes(self, role: str | None = None) -> list[psutil.Process]:
        return self.cluster.processes(self.process.id)

    def last_words(self, lines: int = 3) -> str:
        logs = sorted((self.folder / "logs").glob("*.out"))
        text = "".join(log.read_text(errors="replace") for log in logs)
        return " | ".join(text.strip().splitlines()[-lines:])

    def end(self) -> None:
        try:
            self.cluster.run("scancel", self.process.id)
        except subprocess.SubprocessError:
            pass
        super().end()


class SlurmSession(Session):
    """One job: requeued, preempted, and with a node that fails."""

    def __init__(self, folder: Path, rng: random.Random, say: Say):
        self.rng, self.say = rng, say
        folder.mkdir(parents=True)
        self.table = write_problems(folder / "data", PROBLEMS, rng.randrange(10**6), {})
        self.folder = folder
        self.records: list[Record] = []
        self.exposed: set[str] = set()

    def run(self, faults: list[str]) -> list[Record]:
        try:
            install()
        except SlurmMissing as missing:
            self.say(f"no Slurm, so not tried: {missing}")
            return []
        with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as place:
            self.cluster = Cluster(Path(place))
            previous = os.environ.get("SLURM_CONF")
            os.environ["SLURM_CONF"] = str(self.cluster.conf)
            try:
                self.cluster.start()
                steps = _STEPS_PER_FAULT * (len(faults) + 1)
                self.stack = SlurmStack(self.folder, self.table, steps, QUICK)
                self.stack.cluster = self.cluster
                self.progress = Progress(self.stack)
                return super().run(faults)
            finally:
                self.cluster.stop()
                if previous is None:
                    del os.environ["SLURM_CONF"]

    def fault(self, name: str) -> Fault:
        actions = {
            "slurm-requeue": self._requeue,
            "slurm-preempt": self._preempt,
            "slurm-node-lost": self._lose_node,
        }
        return Fault(name, TITLES[name], RESTARTS, actions[name])

    def _requeue(self, stack: Stack, rng: random.Random) -> str:
        job = stack.process.id
        self.cluster.run("scancel", "--signal=USR1", "--batch", job)
        return f"SIGUSR1 to the batch script of job {job}"

    def _preempt(self, stack: Stack, rng: random.Random) -> str:
        self.cluster.run(
            *("sbatch", "--parsable", f"--partition={URGENT}", "--nodes=2"),
            *("--exclusive", "--output=/dev/null", "--wrap=sleep 2"),
        )
        return "a job of an urgent partition takes both nodes"

    def _lose_node(self, stack: Stack, rng: random.Random) -> str:
        self.cluster.kill_node("n0")
        stack.wait(
            "the job requeued",
            lambda: self.cluster.job(stack.process.id)["JobState"] != "RUNNING",
            120,
            alive=False,
        )
        self.cluster.start_node("n0")
        return "SIGKILL to n0's daemon and all that ran there; the node comes back"

    def _finish(self) -> None:
        status = self.stack.wait_for_end(START_SECONDS)
        close(self.stack, self.records, status, 0)
        self.say(f"ended with {status} after step {self.stack.step}")
