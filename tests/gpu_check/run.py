"""The run: packages, a worker, its end, the summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from areal_cppo.errors import UserError
from tests.gpu_check import folder
from tests.gpu_check.packages import (
    LOG,
    ROOT,
    check_wheels,
    environment,
    install,
    need_wheels,
)
from tests.gpu_check.steps import STEPS, Step

_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Plan:
    """What the user asked for.

    Attributes
    ----------
    steps
        To run, in order.
    out
        The folder of results.
    wheels
        A folder with them, where areal is not installed.
    minutes
        For everything; then what runs is ended.
    rehearse
        On the CPU, in miniature.
    command
        What the user typed.
    """

    steps: list[Step]
    out: Path
    wheels: Path
    minutes: float
    rehearse: bool
    command: list[str]


def check(plan: Plan) -> int:
    """Run the plan; 0 if all of its steps ran and all their bounds hold, else 1.

    Raises
    ------
    UserError
        No GPU, no wheels, or a folder that can't be written.
    """
    until = time.time() + 60 * plan.minutes
    if not plan.rehearse:
        check_gpu()
    lacking = need_wheels()
    if lacking:
        check_wheels(plan.wheels)
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: expected a folder that can be made, found {plan.out}: "
            f"{error.strerror}; name another"
        ) from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the worker
    with tempfile.TemporaryDirectory(prefix="areal-cppo-gpu-check-") as temporary:
        site = None
        if lacking:
            say(f"installing wheels of {plan.wheels} for this run")
            site = Path(temporary) / "site"
            install(plan.wheels, site)
        else:
            say("areal is installed here: no wheels are needed")
        scratch = Path(temporary) / "scratch"
        scratch.mkdir()
        try:
            _work(plan, site, scratch, until)
        finally:
            documents = folder.fold(plan.out)
            print(folder.table(documents))
            print(f"all figures: {plan.out / folder.SUMMARY}", flush=True)
    wanted = {step.number for step in plan.steps}
    states = [d["status"] for d in documents if d["step"] in wanted]
    return 0 if states == [folder.PASSED] * len(wanted) else 1


def say(text: str) -> None:
    """To the log, which is not the result."""
    print(text, file=sys.stderr, flush=True)


def check_gpu() -> None:
    """Refuse a machine whose torch sees no GPU."""
    remedy = "run it where one is, or try the script with --rehearse"
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"expected PyTorch built for CUDA, found none ({error}); install it, or "
            "name an interpreter that has it with GPU_PYTHON=..."
        ) from error
    if not torch.cuda.is_available():
        raise UserError(
            f"expected a CUDA device, found none (torch {torch.__version__}); {remedy}"
        )


def _work(plan: Plan, site: Path | None, scratch: Path, until: float) -> None:
    """Workers, one after the other, until no step is left."""
    for old in plan.steps:  # of an earlier run in the same folder
        folder.forget(plan.out, old)
    left = list(plan.steps)
    while left and time.time() < until:
        with _worker(plan, left, site, scratch, until) as process:
            ended = _watch(process, plan.out, until)
        done = folder.read(plan.out)
        running = [d for d in done.values() if d["status"] == folder.RUNNING]
        for document in running:
            folder.write(plan.out, broken_off(document, ended))
        progress = [step for step in left if step.number in done]
        if not progress and time.time() < until:
            for step in left:
                document = folder.begin(step, time.time())
                reason = f"the worker ended before it began ({ended}); see its output"
                folder.write(plan.out, broken_off(document, reason))
            return
        left = [step for step in left if step.number not in done]
    for step in left:
        document = folder.begin(step, time.time())
        folder.write(plan.out, document | {"status": folder.NOT_RUN})


def broken_off(document: folder.Document, reason: str) -> folder.Document:
    """A step that didn't come to its end."""
    seconds = time.time() - document["began"]
    state = {"status": folder.FAILED, "seconds": seconds, "error": reason}
    return document | state


def worker_command(
    plan: Plan, steps: list[Step], scratch: Path, until: float
) -> list[str]:
    """What starts a worker for some steps."""
    command = [sys.executable, "-m", "tests.gpu_check.worker"]
    command += ["--steps", ",".join(str(step.number) for step in steps)]
    command += ["--out", str(plan.out.resolve()), "--scratch", str(scratch)]
    command += ["--until", str(until), "--command", json.dumps(plan.command)]
    return command + ["--rehearse"] * plan.rehearse


@contextmanager
def _worker(
    plan: Plan, steps: list[Step], site: Path | None, scratch: Path, until: float
):
    process = subprocess.Popen(
        worker_command(plan, steps, scratch, until),
        cwd=ROOT,
        env=environment(os.environ, site, _cores(plan)),
        stdout=LOG,
        process_group=0,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
        except ProcessLookupError:
            pass
        process.wait()


def _cores(plan: Plan) -> int:
    """One for a rehearsal: two threads on a shared core wait for each other."""
    return 1 if plan.rehearse else len(os.sched_getaffinity(0))


def _watch(process: subprocess.Popen, out: Path, until: float) -> str:
    """Wait for the worker's end, or bring it about; how it ended."""
    most = {step.number: step.most for step in STEPS}
    while process.poll() is None:
        time.sleep(_POLL)
        now = time.time()
        if now > until:
            return "out of time"
        for document in folder.read(out).values():
            if document["status"] != folder.RUNNING:
                continue
            if now - document["began"] > most[document["step"]]:
                return f"ended after {most[document['step']]} seconds: it hung"
    return f"the worker ended with status {process.returncode}"
