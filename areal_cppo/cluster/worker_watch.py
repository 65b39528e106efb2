"""Notices a dead worker while the controller waits for another one.

The controller may be in the middle of a call of hours. So a thread looks, and has the
main thread interrupted with a signal whose handler raises. AReaL catches exceptions in
some places and tries again: the signal is repeated, and in the end the process exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from areal_cppo.errors import RunError

SIGNAL = signal.SIGUSR2  # USR1 asks for a stop
_REPEAT_SECONDS = 3.0
_REPEATS = 10


class WorkerWatch:
    """Calls `find_dead` every so often, and ends the run when it finds something.

    Parameters
    ----------
    find_dead
        Says in one line which worker died, or None; called in a thread.
    every_seconds
        Between two calls.
    """

    def __init__(self, find_dead: Callable[[], str | None], every_seconds: float):
        self._find_dead = find_dead
        self._every = every_seconds
        self._stopped = threading.Event()
        self._found = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; from the main thread, which is the one to be interrupted."""
        signal.signal(SIGNAL, self._raise)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what dies afterwards is supposed to."""
        self._stopped.set()

    def _raise(self, signum, frame) -> None:
        if self._found and not self._stopped.is_set():
            raise RunError(self._found)

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            found = self._find_dead()
            if found:
                self._found = found
                self._interrupt()
                return

    def _interrupt(self) -> None:
        main = threading.main_thread()
        for _ in range(_REPEATS):
            signal.pthread_kill(main.ident, SIGNAL)
            if self._stopped.wait(_REPEAT_SECONDS):
                return
        print(self._found, file=sys.stderr, flush=True)
        os._exit(RunError.exit_status)
