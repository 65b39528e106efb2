"""A run's folder is one run's at a time."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from areal_cppo.cli.main import main
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.run.claim import claimed

HOLD = """
import sys, time
from areal_cppo.folder import RunFolder
from areal_cppo.run.claim import claimed
with claimed(RunFolder(sys.argv[1]), False):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_the_second_is_told_who_has_it_and_one_that_was_killed_has_it_no_more(
    folder, capsys
):
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        words = ["train", "--config", "triangles.yaml", f"run_dir={folder.path}"]
        assert main([*words, "recover.mode=on"]) == 2
        assert time.monotonic() - begun < 5
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{folder.path} in use by process {holder.pid} on " in line
        assert folder.lock.exists()
        holder.send_signal(signal.SIGKILL)
    with claimed(folder, False) as unlocked:
        assert unlocked is None


def test_what_was_empty_goes_and_what_was_not_stays(folder):
    with claimed(folder, False):
        assert folder.path.is_dir()
    assert not folder.path.exists()
    with claimed(folder, False):
        folder.event("run_started")
    assert folder.events.exists()
    with claimed(folder, False), pytest.raises(UserError, match="in use by process"):
        with claimed(folder, False):
            raise AssertionError("held twice")


def test_a_run_that_is_there(folder):
    folder.create().metrics.write_text("{}\n")
    with pytest.raises(UserError, match="expected a new folder, found a run's metrics"):
        with claimed(folder, False):
            raise AssertionError
    assert not folder.lock.exists()
    with claimed(folder, True):
        assert folder.lock.exists()


@pytest.mark.parametrize(
    ("node", "job", "free"),
    [("gone", "7", True), ("gone", "8", False), ("here", "7", False)],
)
def test_an_earlier_attempt_of_the_same_job_on_a_node_that_is_gone(
    folder, monkeypatch, node, job, free
):
    """Its lock may outlive it on a file server; other jobs', and this node's, hold."""
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr("platform.node", lambda: node)
    with claimed(folder, True):
        folder.event("run_started")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr("platform.node", lambda: "here")
        held = nullcontext() if free else pytest.raises(UserError, match="in use by p")
        with held, claimed(folder, True):
            assert folder.lock.read_text().endswith(" on here, Slurm job 7")


def test_a_file_system_without_locks(folder, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(folder, False) as unlocked:
        assert unlocked == f"{folder.path} can't be locked: No locks available"


def test_a_place_that_cannot_be_written(folder):
    folder.path.write_text("a file")
    for place in (folder, RunFolder(folder.path / "below")):
        with pytest.raises(
            UserError, match="expected a folder that can be written, fo"
        ):
            with claimed(place, False):
                raise AssertionError
