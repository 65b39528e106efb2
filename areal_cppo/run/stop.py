"""A run that is asked to stop: it finishes its step and can be gone on with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from areal_cppo.errors import RunError

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later

_POLL_SECONDS = 0.5


class Stopped(RunError):
    """The run stopped because it was asked to, with a checkpoint."""

    exit_status = STOPPED


class StopRequest:
    """Looks for a file that asks the run to stop, and obeys by deleting it.

    Parameters
    ----------
    file
        Of any content.
    since
        Unix time; a file that is older is of an earlier request, and deleted.

    Attributes
    ----------
    on_request
        Called once in a thread of its own when the run is asked to stop.
    """

    def __init__(self, file: Path, since: float, on_request: Callable[[], None]):
        self.file = file
        self.on_request = on_request
        self._asked = threading.Event()
        if file.exists() and file.stat().st_mtime < since:
            file.unlink()
        threading.Thread(target=self._look, daemon=True, name="stop-request").start()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def _look(self) -> None:
        while not self.file.exists():
            if self._asked.wait(_POLL_SECONDS):
                return
        self._asked.set()
        self.file.unlink(missing_ok=True)
        self.on_request()
