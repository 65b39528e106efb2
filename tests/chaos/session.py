"""Runs with faults in them: when each is injected, and what is waited for after it."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.faults import ENDS, FAULTS, RESTARTS, SURVIVES, Fault
from tests.chaos.measure import Progress, Record, close
from tests.chaos.problems import write_problems
from tests.chaos.stack import (
    END_SECONDS,
    PROBLEMS,
    SERVERS,
    START_SECONDS,
    STEP_SECONDS,
    Stack,
    Stuck,
    listens,
)

Say = Callable[[str], None]

# Limits that fit a model whose steps take seconds; the defaults are for large ones.
QUICK = (
    "rollout.servers.hang_seconds=20",
    "rollout.servers.update_seconds=90",
    "rollout.servers.restarts=100",
    "rollout.setup_timeout=600",
    "watchdog.silent_seconds=45",
    "watchdog.step_seconds=300",
    "watchdog.start_seconds=900",
)
_FOR_EVER = 100_000  # steps
_TAIL = 2  # steps after the last fault
_SERVER_SECONDS = 300.0  # until a server is back
_DISK_MB = 64
_VICTIM = re.compile(r"(?:server|scheduler|detokenizer) (\d+)")


class Session:
    """One run, any number of faults one after the other, and its end.

    Parameters
    ----------
    folder
        New; everything of the run is in it.
    rng
        Decides moments and victims.
    say
        Told what happens, in lines.
    """

    def __init__(self, folder: Path, rng: random.Random, say: Say):
        self.rng, self.say = rng, say
        folder.mkdir(parents=True)
        table = write_problems(folder / "data", PROBLEMS, rng.randrange(10**6), {})
        self.stack = Stack(folder, table, _FOR_EVER, QUICK)
        self.progress = Progress(self.stack)
        self.records: list[Record] = []
        self.exposed: set[str] = set()

    def run(self, faults: list[str]) -> list[Record]:
        """Inject the faults, stop the run, go on with it to its end."""
        stack = self.stack
        try:
            self.say(f"starting {stack.folder.name}: {', '.join(faults)}")
            stack.start()
            stack.wait_for_step(1)
            for name in faults:
                self.inject(self.fault(name))
            self._finish()
        except Stuck as stuck:
            self._stuck(str(stuck), faults)
        finally:
            stack.end()
        return self.records

    def fault(self, name: str) -> Fault:
        return FAULTS[name]

    def inject(self, fault: Fault) -> Record:
        """One fault at a random moment, and the run's recovery from it."""
        stack, rng, progress = self.stack, self.rng, self.progress
        stack.wait_for_step(progress.look() + rng.randrange(1, 3), STEP_SECONDS)
        time.sleep(rng.uniform(0.0, self._step_seconds()))
        self.exposed |= set(stack.exposed())
        progress.best = progress.look()
        record = Record(fault.name, "", progress.best)
        self.records.append(record)
        moment = time.time()
        record.what = fault.inject(stack, rng)
        moment = max(moment, time.time() - 1.0)
        self.say(f"step {record.at_step}: {record.what}")
        if fault.leads_to == ENDS:
            self._start_again(fault, record)
        if fault.leads_to == SURVIVES:
            self._recover_in_place(fault, record, moment)
        else:
            self._recover_by_restart(fault, record, moment)
        self.say(
            f"  recovered in {record.seconds_to_recover:.1f} s, lost "
            f"{record.steps_lost} steps{record.note and '; ' + record.note}"
        )
        return record

    def _recover_in_place(self, fault: Fault, record: Record, moment: float) -> None:
        stack, progress = self.stack, self.progress
        finished = stack.wait(
            f"a step after {fault.name}",
            lambda: progress.first_after(moment),
            STEP_SECONDS,
        )
        record.seconds_to_recover = finished - moment
        record.steps_lost = 0
        if fault.hits_server:
            self._wait_for_servers(fault, record, moment)
        if (again := progress.resumed(moment)) is not None:
            record.problems.append("the whole run was started again")
            record.steps_lost = max(0, progress.best - again)

    def _wait_for_servers(self, fault: Fault, record: Record, moment: float) -> None:
        """Until the server that was hit is back, so that the next fault finds two."""
        stack = self.stack
        if fault.name == "server-slow":
            time.sleep(20.0)
            if not stack.events("server_down", since=moment):
                record.note = "it stayed in"
                return
        victim = int(_VICTIM.search(record.what)[1])
        stack.wait(
            "the server back", lambda: self._back(victim, moment), _SERVER_SECONDS
        )
        seconds = time.time() - moment
        down = stack.events("server_down", since=moment)
        noticed = f"noticed after {down[0]['time'] - moment:.1f} s, " if down else ""
        record.seconds_server_back = seconds
        record.note = f"{noticed}server back after {seconds:.0f} s"

    def _back(self, victim: int, moment: float) -> bool:
        """Whether all servers listen, none is the old one, and the run says so."""
        stack = self.stack
        roles = ("server", "scheduler", "detokenizer")
        found = {role: stack.processes(role) for role in roles}
        pids = {process.pid for role in roles for process in found[role]}
        if victim in pids or any(len(found[role]) != SERVERS for role in roles):
            return False
        down = stack.events("server_down", since=moment)
        if down and not stack.events("server_up", since=down[-1]["time"]):
            return False
        return all(map(listens, found["server"]))

    def _start_again(self, fault: Fault, record: Record) -> None:
        stack = self.stack
        record.exit_status = stack.wait_for_end(END_SECONDS)
        if record.exit_status not in fault.statuses:
            record.problems.append(
                f"expected exit status {fault.statuses}, found {record.exit_status}: "
                f"{stack.last_words()}"
            )
        self.progress.look()
        left = stack.orphans(patience=60.0)
        record.orphans = len(left)
        if left:
            record.problems.append(f"left behind: {left[:3]}")
            stack.end()
        self._free_disk()
        stack.start()

    def _free_disk(self) -> None:
        """Where a fault filled the disk, somebody makes room."""

    def _recover_by_restart(self, fault: Fault, record: Record, moment: float) -> None:
        stack, progress = self.stack, self.progress

        def resumed() -> int | None:
            progress.look()
            return progress.resumed(moment)

        found = stack.wait(
            f"the run started again after {fault.name}",
            lambda: None if resumed() is None else (resumed(),),
            START_SECONDS,
        )
        (after,) = found
        record.steps_lost = max(0, progress.best - after)
        if record.steps_lost > fault.steps_lost:
            record.problems.append(f"lost {record.steps_lost} finished steps")
        stack.wait_for_step(after + 1, START_SECONDS)
        progress.look()
        record.seconds_to_recover = progress.seen[after + 1] - moment
        record.note = f"went on after step {after}"
        progress.best = progress.look()

    def _step_seconds(self) -> float:
        times = sorted(self.progress.seen.values())[-6:]
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        return min(sorted(gaps)[len(gaps) // 2], 10.0) if gaps else 2.0

    def _finish(self) -> None:
        """A few more steps, a stop, and the last steps in a run of their own."""
        stack = self.stack
        stack.wait_for_step(self.progress.look() + _TAIL, STEP_SECONDS)
        (stack.run / "STOP").touch()
        status = stack.wait_for_end(END_SECONDS)
        if status == 75:
            last = stack.step + _TAIL
            stack.command.append(f"total_train_steps={last}")
            stack.start()
            status = stack.wait_for_end(START_SECONDS)
            if stack.step != last:
                status = status or -1
        close(stack, self.records, status, 0)
        if self.exposed:
            for record in self.records:
                record.problems.append(f"listens outside: {sorted(self.exposed)}")
        self.say(f"ended with {status} after step {stack.step}")

    def _stuck(self, why: str, faults: list[str]) -> None:
        if not self.records:
            self.records.append(Record(faults[0] if faults else "start", "", 0))
        words = self.stack.last_words()
        self.records[-1].problems.append(f"{why}; last words: {words}")
        self.say(f"STUCK: {why}; {words}")


class DiskSession(Session):
    """A run whose checkpoints are on a small disk of their own, which fills up."""

    def __init__(self, folder: Path, rng: random.Random, say: Say):
        super().__init__(folder, rng, say)
        self.disk = self.stack.run / "recover"
        self.disk.mkdir(parents=True)
        size = f"size={_DISK_MB}m"
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.disk)]
        subprocess.run(command, check=True, capture_output=True)
        self.filler = self.disk / "filler"
        self.said_before = 0  # bytes of output before the disk was full

    def run(self, faults: list[str]) -> list[Record]:
        try:
            return super().run(faults)
        finally:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    def fault(self, name: str) -> Fault:
        def fill(stack: Stack, rng: random.Random) -> str:
            left = rng.randrange(2**12, 2**20)
            free = shutil.disk_usage(self.disk).free
            self.said_before = stack.output.stat().st_size
            with self.filler.open("wb") as file:
                file.write(bytes(max(0, free - left)))
            return f"the disk of the checkpoints has {left // 1024} KiB left"

        return Fault(name, "a full checkpoint disk", ENDS, fill, (1,))

    def _free_disk(self) -> None:
        said = self.stack.output.read_bytes()[self.said_before :]
        if b"no space left" not in said:
            self.records[-1].problems.append("the full disk was not named")
        self.filler.unlink(missing_ok=True)


def kinds(*wanted: str) -> list[str]:
    return [name for name, fault in FAULTS.items() if fault.leads_to in wanted]


BY_SESSION = {
    "servers": kinds(SURVIVES),
    "workers": kinds(RESTARTS),
    "command": kinds(ENDS),
}
