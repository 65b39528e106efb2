"""Checkpoints to go on from: written aside, renamed when whole, the newest few kept.

    recover/step-00012/
        actor/          weights and optimiser (torch.distributed.checkpoint)
        rank-00000.pt   of each trainer rank: learning-rate scheduler, random states
        state.json      what the controller knows, and the size of every file

`state.json` is written last, and the folder has its name only after that and after all
of it is on the disk. A folder whose files aren't all there at their size is never
loaded.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from areal_cppo.errors import RunError

STATE = "state.json"
ASIDE = ".part"


class DiskFull(RunError):
    """There is no room for a checkpoint."""


class CheckpointStore:
    """The checkpoints of one run.

    Parameters
    ----------
    folder
        Holds them; made when needed.
    keep
        How many are kept, the newest.
    note
        Told in a line of a checkpoint that can't be used.
    """

    def __init__(
        self, folder: Path, keep: int, note: Callable[[str], None] = lambda text: None
    ):
        self.folder = folder
        self.keep = keep
        self.note = note

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}"

    def steps(self) -> list[int]:
        """Steps after which there is a checkpoint by name, whole or not, ascending."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdigit())

    def save(
        self, step: int, write: Callable[[Path], None], state: dict[str, Any]
    ) -> Path:
        """Write the checkpoint after `step` (1-based) and delete those too many.

        `write` fills a folder with everything but `state.json`.

        Raises
        ------
        DiskFull
            There is no room; the checkpoints before are as they were.
        """
        whole = self.path(step)
        aside = whole.with_name(whole.name + ASIDE)
        self._check_room()
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            write(aside)
            sizes = {str(f.relative_to(aside)): f.stat().st_size for f in _files(aside)}
            state = {**state, "step": step, "files": sizes}
            (aside / STATE).write_text(json.dumps(state), encoding="utf-8")
            for path in _files(aside):
                _sync(path)
            _sync(aside)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            if no_space(error):
                raise self._disk_full(step) from error
            raise
        if whole.exists():  # it was found torn, or the run went on from an older one
            shutil.rmtree(whole)
        aside.rename(whole)
        _sync(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return whole

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state; what was left aside is deleted."""
        for aside in self.folder.glob(f"step-*{ASIDE}"):
            shutil.rmtree(aside, ignore_errors=True)
        for step in reversed(self.steps()):
            try:
                return self.path(step), self._read(step)
            except (OSError, ValueError, KeyError) as error:
                self.note(
                    f"the checkpoint after step {step} is not whole ({error}): passed "
                    "over"
                )
        return None

    def _read(self, step: int) -> dict[str, Any]:
        folder = self.path(step)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, size in state["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f"expected {size} bytes in {name}, found {found}")
        return state

    def _check_room(self) -> None:
        """Refuse to begin where the last one's size isn't free."""
        steps = self.steps()
        if not steps:
            return
        size = sum(f.stat().st_size for f in _files(self.path(steps[-1])))
        if shutil.disk_usage(self.folder).free < size:
            raise self._disk_full(steps[-1] + 1, size)

    def _disk_full(self, step: int, size: int | None = None) -> DiskFull:
        free = shutil.disk_usage(self.folder).free // 2**20
        needed = f"{-(-size // 2**20)} MiB free" if size else "room"
        return DiskFull(
            f"{self.folder.name}: expected {needed} for the checkpoint after step "
            f"{step}, found {free} MiB: no space left on the disk; earlier checkpoints "
            "are whole: free some space, or lower recover.keep, and start again"
        )


def no_space(error: BaseException) -> bool:
    """Whether a full disk or quota is behind an error, also a worker's."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in codes:
        return True
    return any(os.strerror(code) in str(error) for code in codes)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
