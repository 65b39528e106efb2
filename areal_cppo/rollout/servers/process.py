"""The processes of one server: started, looked at, ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import psutil
from areal.utils import logging

from areal_cppo.serving.processes import descendants, end_processes

logger = logging.getLogger("ServerProcess")

_KILLED_SECONDS = 10.0  # until what was killed is gone, and its port is free

Launch = Callable[[], subprocess.Popen]


class ServerProcess:
    """A server's process, and those that it started.

    They are looked up while the server lives: once it is dead, those that it leaves
    behind are nobody's children any more. Not safe for several threads at once.

    Parameters
    ----------
    launch
        Starts the server's main process.
    """

    def __init__(self, launch: Launch):
        self._launch = launch
        self._main: subprocess.Popen | None = None
        self._tree: list[psutil.Process] = []
        self._stopped_since: float | None = None

    def spawn(self) -> None:
        """Start it (again)."""
        self._main = self._launch()
        self._stopped_since = None
        self._look_up()

    def exit_code(self) -> int | None:
        """Of the main process; None while it lives."""
        return self._main.poll()

    def stopped_for(self) -> float:
        """Seconds since one of the processes was first seen stopped (SIGSTOP)."""
        self._look_up()
        if not any(map(_is_stopped, self._tree)):
            self._stopped_since = None
            return 0.0
        self._stopped_since = self._stopped_since or time.monotonic()
        return time.monotonic() - self._stopped_since

    def kill(self) -> None:
        """End all of them, also stopped ones; no harm if they are gone."""
        if self._main is None:
            return
        end_processes({*self._tree, *descendants(self._main.pid)}, grace_seconds=0.0)
        try:
            self._main.wait(_KILLED_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("process %d can't be ended", self._main.pid)

    def _look_up(self) -> None:
        try:
            main = psutil.Process(self._main.pid)
            self._tree = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass  # as they were seen last


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
