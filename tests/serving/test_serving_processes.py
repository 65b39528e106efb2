"""Ending trees and runs: also children that were re-parented or ignore SIGTERM.

Not covered: processes of other users, and init systems that restart what is ended.
"""

import os
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from areal_cppo.serving.processes import (
    RUN_ID_VARIABLE,
    descendants,
    end_process_tree,
    end_run,
    processes_of_run,
    run_environment,
)

SLEEP = "import time; time.sleep(120)"
# Starts a child of its own, says its id and sleeps.
PARENT = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(120)\n"
)
# Starts a child and leaves it to init.
ABANDON = PARENT.replace("time.sleep(120)\n", "")
DEAF = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print(0, flush=True)\n"
    "time.sleep(120)\n"
)


def start(code: str, run_id: str | None = None) -> tuple[subprocess.Popen, int]:
    """Runs `code`; the process and the number that it prints."""
    marker = run_environment(run_id) if run_id else {}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **marker},
    )
    return process, int(process.stdout.readline())


@pytest.fixture
def run_id():
    name = f"test-{uuid.uuid4()}"
    yield name
    end_run(name, grace_seconds=0)


def test_tree_is_ended_with_its_children(run_id, gone):
    process, child = start(PARENT, run_id)
    assert [p.pid for p in descendants(process.pid)] == [child]
    end_process_tree(process.pid, grace_seconds=5)
    assert process.wait(timeout=5) < 0
    assert gone(child)


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(run_id):
    process, _ = start(DEAF, run_id)
    started = time.monotonic()
    end_process_tree(process.pid, grace_seconds=0.5)
    assert process.wait(timeout=5) == -9
    assert time.monotonic() - started >= 0.5


def test_ending_what_is_gone_does_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert descendants(process.pid) == []
    end_process_tree(process.pid)


def test_run_includes_a_grandchild_that_init_adopted(run_id, gone):
    abandoner, orphan = start(ABANDON, run_id)
    abandoner.wait(timeout=10)
    assert descendants(abandoner.pid) == []
    assert [p.pid for p in processes_of_run(run_id)] == [orphan]
    assert end_run(run_id, grace_seconds=5) == [orphan]
    assert gone(orphan)
    assert processes_of_run(run_id) == []


def test_run_leaves_other_runs_alone(run_id):
    other_id = f"{run_id}-other"
    mine, my_child = start(PARENT, run_id)
    other, _ = start(PARENT, other_id)
    try:
        assert end_run(run_id, grace_seconds=5) == sorted([mine.pid, my_child])
        assert other.poll() is None
        assert len(processes_of_run(other_id)) == 2
    finally:
        end_run(other_id, grace_seconds=0)
        other.wait()
        mine.wait()


def test_a_marked_process_can_end_its_run_without_itself(run_id):
    code = (
        "from areal_cppo.serving.processes import end_run\n"
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"ended = end_run({run_id!r}, grace_seconds=5)\n"
        "assert ended == [child.pid], ended\n"
        "print(1, flush=True)\n"
    )
    process, printed = start(code, run_id)
    assert printed == 1
    assert process.wait(timeout=10) == 0


def test_the_marker_survives_a_change_of_title(run_id):
    title = "sglang::scheduler with a title that is longer than the command line " * 3
    code = (
        "import setproctitle, time\n"
        f"setproctitle.setproctitle({title!r})\n"
        "print(1, flush=True)\n"
        "time.sleep(120)\n"
    )
    process, _ = start(code, run_id)
    assert [p.pid for p in processes_of_run(run_id)] == [process.pid]
    end_run(run_id)
    process.wait()


def test_an_empty_run_id_is_refused():
    with pytest.raises(ValueError, match="one character or more"):
        run_environment("")
    assert run_environment("a")[RUN_ID_VARIABLE] == "a"


def test_a_process_that_has_the_number_of_a_dead_one_is_found(run_id):
    """Numbers come round in a process that lives for days, as a supervisor may."""
    process, _ = start(PARENT, run_id)
    try:
        for remembered in psutil.process_iter():
            if remembered.pid == process.pid:
                remembered._ident = (process.pid, 0.0)  # of one that began long ago
                assert not remembered.is_running()
        assert process.pid in [found.pid for found in processes_of_run(run_id)]
    finally:
        end_run(run_id, grace_seconds=0)
        process.wait()
