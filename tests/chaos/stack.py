"""One run of the real stack, from outside: its processes, its progress, its end.

Nothing of the run is imported or replaced: it is `areal-cppo train` in a process of its
own, seen through the files of its folder and the processes of the machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from areal_cppo.serving.processes import RUN_ID_VARIABLE, processes_of_run
from areal_cppo.tasks.problems import TRIANGLES

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "areal_cppo" / "configs" / "triangles.yaml"
MARK = "AREAL_CPPO_CHAOS"  # in the environment of all that a run starts: its folder

PROBLEMS, BATCH = 20, 4  # five steps an epoch
SERVERS = 2
START_SECONDS = 900.0  # to the first step; a minute where nobody else is busy
STEP_SECONDS = 300.0
END_SECONDS = 240.0

# What a process of a role has in its command line, all of it.
ROLES = {
    "controller": (".controller",),
    "trainer": ("-m areal_cppo.cluster.worker", "--role actor"),
    "rollout worker": ("-m areal_cppo.cluster.worker", "--role rollout"),
    "server": ("-m areal_cppo.serving.launch",),
    "scheduler": ("sglang::scheduler",),
    "detokenizer": ("sglang::detokenizer",),
    "reward process": ("areal_cppo.rewards.worker",),
}
_WRAPPERS = ("/bin/bash", "tee", "sed")  # around AReaL's workers


def listens(process: psutil.Process) -> bool:
    """Whether a process listens on any port."""
    try:
        found = process.net_connections("inet")
    except psutil.Error:
        return False
    return any(connection.status == psutil.CONN_LISTEN for connection in found)


class Stuck(Exception):
    """What was waited for did not happen."""


class Stack:
    """A run in a folder; may be started again and again.

    Parameters
    ----------
    folder
        For everything; the run's own is `folder / "run"`.
    problems
        The table of problems.
    steps
        Train steps of the whole run.
    overrides
        More `key=value` settings.
    module
        What is started; `areal_cppo` or `tests.chaos.train`.
    """

    def __init__(
        self,
        folder: Path,
        problems: Path,
        steps: int,
        overrides: tuple[str, ...] = (),
        module: str = "areal_cppo",
    ):
        self.folder = folder
        self.run = folder / "run"
        self.steps = steps
        self.output = folder / "output.txt"
        train = ["train"] if module == "areal_cppo" else []
        self.command = [
            *(sys.executable, "-m", module, *train, "--config", str(CONFIG)),
            f"run_dir={self.run}",
            f"actor.path={TRIANGLES.checkpoint}",
            f"train_dataset.path={problems}",
            "data.source=custom",
            "data.columns.id=id",
            "data.instruction=''",
            "data.max_prompt_tokens=200",
            "heldout.size=0",
            f"train_dataset.batch_size={BATCH}",
            "gconfig.n_samples=4",
            "total_train_epochs=1000",
            f"total_train_steps={steps}",
            f"rollout.backend=sglang:d{SERVERS}p1t1",
            "recover.mode=on",
            "recover.retries=3",
            "recover.freq_steps=1",
            *overrides,
        ]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = os.environ | {MARK: str(self.run), "CUDA_VISIBLE_DEVICES": ""}
        environment.pop(RUN_ID_VARIABLE, None)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, role: str | None = None) -> list[psutil.Process]:
        """Living processes of the run, ascending by start; of one role or all."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(MARK) != str(self.run):
                    continue
                words = process.cmdline()
            except psutil.Error:
                continue
            line = " ".join(words)
            wanted = role is None or (
                words[:1]
                and words[0] not in _WRAPPERS
                and all(part in line for part in ROLES[role])
            )
            if wanted and (role is None or process.pid != self.process.pid):
                found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file of the run's folder."""
        file = self.run / name
        if not file.is_file():
            return []
        *whole, _ = file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in whole]

    @property
    def step(self) -> int:
        """The last finished step; 0 before the first."""
        return max((line["step"] for line in self.lines("metrics.jsonl")), default=0)

    def events(self, *kinds: str, since: float = 0.0) -> list[dict[str, Any]]:
        return [
            event
            for event in self.lines("events.jsonl")
            if event["event"] in kinds and event["time"] >= since
        ]

    def wait(
        self,
        what: str,
        condition: Callable[[], Any],
        seconds: float,
        alive: bool = True,
        poll: float = 0.2,
    ) -> Any:
        """What `condition` answers once it is true.

        Raises
        ------
        Stuck
            It isn't within `seconds`; or the run ended, if it has to be `alive`.
        """
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if alive and self.process.poll() is not None:
                raise Stuck(f"the run ended with {self.process.returncode}: {what}")
            if time.monotonic() > deadline:
                raise Stuck(f"expected within {seconds:.0f} s: {what}")
            time.sleep(poll)
        return answer

    def wait_for_step(self, step: int, seconds: float = START_SECONDS) -> None:
        self.wait(f"step {step} finished", lambda: self.step >= step, seconds)

    def wait_for_end(self, seconds: float) -> int:
        """The exit status."""
        self.wait("the end", lambda: self.process.poll() is not None, seconds, False)
        return self.process.returncode

    def run_ids(self) -> set[str]:
        return {event["run_id"] for event in self.events("run_started")}

    def orphans(self, patience: float = 20.0) -> list[str]:
        """Command lines of what the run has left behind; its last ones get a moment."""
        deadline = time.monotonic() + patience
        while left := self._left():
            if time.monotonic() > deadline:
                return left
            time.sleep(0.5)
        return []

    def _left(self) -> list[str]:
        found = {process.pid: process for process in self.processes()}
        for run_id in self.run_ids():
            found |= {process.pid: process for process in processes_of_run(run_id)}
        left = []
        for process in found.values():
            try:
                left.append(" ".join(process.cmdline())[:200])
            except psutil.NoSuchProcess:
                continue
        return left

    def exposed(self) -> list[str]:
        """Sockets of the run that listen outside loopback."""
        outside = []
        for process in self.processes():
            try:
                connections = process.net_connections("inet")
            except psutil.Error:
                continue
            for found in connections:
                loopback = found.laddr and found.laddr.ip.startswith(("127.", "::1"))
                if found.status == psutil.CONN_LISTEN and not loopback:
                    outside.append(f"{found.laddr.ip}:{found.laddr.port}")
        return outside

    def last_words(self, lines: int = 3) -> str:
        text = self.output.read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.strip().splitlines()[-lines:])

    def end(self) -> None:
        """End everything that is left, whatever it does."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        if self.process is not None:
            self.process.wait()
