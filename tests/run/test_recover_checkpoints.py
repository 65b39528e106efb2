"""Checkpoints: whole or not there, the newest few, on a disk that fills up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from areal_cppo.run.checkpoints import (
    ASIDE,
    STATE,
    CheckpointStore,
    DiskFull,
    no_space,
)


def fill(folder: Path) -> None:
    (folder / "actor").mkdir()
    (folder / "actor/weights").write_bytes(os.urandom(1000))
    (folder / "rank-00000.pt").write_bytes(b"state")


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "recover", keep=2)


def test_the_newest_are_kept(store):
    for step in (1, 2, 3, 12):
        store.save(step, fill, {"ledger": step})
    assert store.steps() == [3, 12]
    path, state = store.newest()
    assert path.name == "step-00012"
    assert (state["step"], state["ledger"]) == (12, 12)
    assert {p.name for p in store.folder.iterdir()} == {"step-00003", "step-00012"}


@pytest.mark.parametrize("harm", ["cut", "missing", "no state", "torn state", "empty"])
def test_a_torn_checkpoint_is_passed_over(store, harm):
    said = []
    store.note = said.append
    store.save(1, fill, {})
    path = store.save(2, fill, {})
    weights = path / "actor/weights"
    if harm == "cut":
        os.truncate(weights, 10)
    elif harm == "missing":
        weights.unlink()
    elif harm == "no state":
        (path / STATE).unlink()
    elif harm == "torn state":
        os.truncate(path / STATE, 20)
    else:
        for file in [f for f in path.rglob("*") if f.is_file()]:
            file.unlink()
    found, state = store.newest()
    assert (found.name, state["step"]) == ("step-00001", 1)
    assert len(said) == 1 and "step 2" in said[0]


def test_what_was_left_aside_is_never_loaded_and_goes(store):
    store.save(1, fill, {})
    aside = store.path(2).with_name(store.path(2).name + ASIDE)
    aside.mkdir()
    fill(aside)
    (aside / STATE).write_text(json.dumps({"step": 2, "files": {}}))
    assert store.newest()[1]["step"] == 1
    assert not aside.exists()


def test_there_is_none_at_first(store):
    assert store.newest() is None


def test_a_step_that_is_made_again_replaces_its_checkpoint(store):
    store.save(2, fill, {"life": 1})
    os.truncate(store.path(2) / "actor/weights", 3)
    store.save(2, fill, {"life": 2})
    assert store.newest()[1]["life"] == 2


def test_a_failure_leaves_the_one_before(store):
    store.save(1, fill, {})

    def fail(folder):
        fill(folder)
        raise RuntimeError("a rank died")

    with pytest.raises(RuntimeError, match="a rank died"):
        store.save(2, fail, {})
    assert store.newest()[1]["step"] == 1
    assert [p.name for p in store.folder.iterdir()] == ["step-00001"]


WRITER = """
import sys, itertools
from pathlib import Path
from areal_cppo.run.checkpoints import CheckpointStore

def fill(folder):
    for name in "abcdefgh":
        (folder / name).write_bytes(bytes(20000))

store = CheckpointStore(Path(sys.argv[1]), keep=2)
for step in itertools.count(1):
    store.save(step, fill, {"step": step})
    print(step, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_the_newest_is_whole(tmp_path, seed):
    """A real SIGKILL of a process that writes checkpoints without end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    told = int(process.stdout.readline())
    time.sleep(0.05 + 0.037 * seed)
    process.kill()
    lines = process.stdout.read().split()
    process.wait()
    told = int(lines[-1]) if lines else told
    path, state = CheckpointStore(tmp_path, keep=2).newest()
    assert state["step"] in (told, told + 1)
    assert all((path / n).stat().st_size == s for n, s in state["files"].items())


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small tmpfs can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_there_stays(small_disk):
    def write(size):
        return lambda folder: (folder / "weights").write_bytes(bytes(size))

    store = CheckpointStore(small_disk / "recover", keep=3)
    store.save(1, write(60_000), {})
    with pytest.raises(DiskFull, match="no space left on the disk") as full:
        store.save(2, write(600_000), {})
    assert "\n" not in str(full.value) and "step 2" in str(full.value)
    assert [p.name for p in store.folder.iterdir()] == ["step-00001"]
    assert store.newest()[1]["step"] == 1
    # What is known not to fit isn't begun.
    store.save(2, write(100_000), {})
    with pytest.raises(DiskFull, match="MiB free"):
        store.save(3, write(100_000), {})
    assert store.newest()[1]["step"] == 2


def test_a_workers_full_disk_is_known_by_its_words():
    assert no_space(OSError(28, "No space left on device"))
    assert no_space(RuntimeError("Failed to call 'save': No space left on device"))
    assert not no_space(RuntimeError("out of memory"))
