"""A dead worker interrupts the controller, whatever it does; no Slurm needed.

Each case is a process of its own: it is about signals to the main thread.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

BEGIN = """
import time
from areal_cppo.errors import RunError
from areal_cppo.cluster import slurm
slurm._REPEAT_SECONDS = 0.1
began = time.monotonic()
watcher = slurm.DeathWatch(
    lambda: "worker a/0 died" if time.monotonic() > began + 0.3 else None, 0.1
)
watcher.start()
"""


def run(rest: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(rest)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_wait_of_hours_ends_with_the_reason():
    done = run("""
        try:
            time.sleep(100)
        except RunError as error:
            print(error)
    """)
    assert done.stdout == "worker a/0 died\n"
    assert done.returncode == 0


def test_a_wait_for_another_thread_ends():
    done = run("""
        import threading
        try:
            threading.Event().wait()
        except RunError as error:
            print(error)
    """)
    assert done.stdout == "worker a/0 died\n"


def test_an_exception_that_is_caught_comes_again():
    done = run("""
        caught = 0
        while caught < 3:
            try:
                time.sleep(100)
            except Exception:
                caught += 1
        print(caught)
    """)
    assert done.stdout == "3\n"


def test_who_catches_everything_is_ended_with_the_reason():
    done = run("""
        while True:
            try:
                time.sleep(100)
            except BaseException:
                pass
    """)
    assert done.returncode == 1
    assert done.stderr.endswith("worker a/0 died\n")


def test_a_death_after_the_end_is_none():
    done = run("""
        watcher.stop()
        time.sleep(1)
        print("well")
    """)
    assert done.stdout == "well\n"
    assert done.returncode == 0
