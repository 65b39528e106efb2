"""A run's folder is one run's at a time.

Looked at before AReaL is imported, so that who starts a run twice hears it at once. The
lock is the operating system's (`flock`, of whole clusters on NFS and Lustre with
`flock`): it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder


def check_new(folder: RunFolder, goes_on: bool) -> None:
    """A UserError if a run is there that isn't to be gone on with, or none can be."""
    place = folder.path.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(
            f"run_dir: expected a folder that can be written, found {folder.path}, and "
            f"{there} can't; set another run_dir"
        )
    if folder.metrics.exists() and not goes_on:
        raise UserError(
            f"run_dir: expected a new folder, found a run's metrics.jsonl in "
            f"{folder.path}; set another run_dir, so that nothing is lost, or "
            "go on with that run: recover.mode=on"
        )


@contextmanager
def claimed(folder: RunFolder, goes_on: bool) -> Iterator[str | None]:
    """Hold a run's folder, which is made; one that stays empty goes again.

    Parameters
    ----------
    folder
        The run's.
    goes_on
        Whether a run that is there is to be gone on with.

    Yields
    ------
    str or None
        Why the folder can't be locked, where its file system has no locks.

    Raises
    ------
    UserError
        Another run holds it; a run is there that isn't to be gone on with; or it can't
        be written.
    """
    check_new(folder, goes_on)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = _open(folder)
    except OSError as error:
        raise UserError(
            f"run_dir: expected a folder that can be written, found {folder.path}: "
            f"{error.strerror}; set another run_dir"
        ) from error
    try:
        unlocked = _take(lock, folder)
        try:
            yield unlocked
        finally:
            if os.listdir(folder.path) == [folder.lock.name]:
                folder.lock.unlink()
                folder.path.rmdir()
    finally:
        os.close(lock)


def _open(folder: RunFolder) -> int:
    """The lock's file. That of an earlier attempt of this job of Slurm on another node
    is left behind: the node may be gone, and a file server that hasn't noticed."""
    job = os.environ.get("SLURM_JOB_ID")
    if job and folder.lock.exists():
        node, _, of = folder.lock.read_text(errors="replace").partition(", Slurm job ")
        if of == job and not node.endswith(f" on {platform.node()}"):
            folder.lock.unlink()
    return os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o644)


def _take(lock: int, folder: RunFolder) -> str | None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace") or "another run"
        raise UserError(
            f"run_dir: expected a folder that no run is using, found {folder.path} in "
            f"use by {holder}; end that one (if it is gone, delete {folder.lock}), or "
            "set another run_dir"
        ) from None
    except OSError as error:
        return f"{folder.path} can't be locked: {error.strerror}"
    job = os.environ.get("SLURM_JOB_ID")
    mine = f"process {os.getpid()} on {platform.node()}"
    os.truncate(lock, 0)
    os.write(lock, (mine + (f", Slurm job {job}" if job else "")).encode())
    return None
