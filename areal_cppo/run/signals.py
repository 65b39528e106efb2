"""The signals that a supervisor obeys."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

from areal_cppo.folder import RunFolder


class Signals:
    """SIGUSR1, SIGTERM and SIGINT, noted when they come and obeyed when it suits.

    A context manager for the main thread. A second SIGTERM or SIGINT interrupts at
    once.

    Attributes
    ----------
    pipe
        File descriptor that can be read when a signal has come.
    """

    def __init__(self):
        self.stop_asked = False  # by SIGUSR1 or SIGTERM
        self.terminated = False
        self.interrupted = False
        self._passed_on = False
        self._deadline: float | None = None

    @property
    def any(self) -> bool:
        return self.stop_asked or self.interrupted

    def __enter__(self) -> Signals:
        self.pipe, self._write = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(self._write, False)
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.pipe)
        os.close(self._write)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT or (number == signal.SIGTERM and self.terminated):
            self.interrupted = True
            raise KeyboardInterrupt
        self.stop_asked = True
        self.terminated = self.terminated or number == signal.SIGTERM
        try:
            os.write(self._write, b"x")  # wakes whoever waits
        except BlockingIOError:
            pass  # he is awake

    def obey(self, folder: Path | None, grace_seconds: float) -> None:
        """Pass a request to stop on to the run; end it when its time is over.

        A run that has no folder yet has nothing to finish.

        Raises
        ------
        KeyboardInterrupt
            The run has to be ended.
        """
        try:
            os.read(self.pipe, 64)
        except BlockingIOError:
            pass
        if not self.stop_asked:
            return
        if self.terminated and self._deadline is None:
            self._deadline = time.monotonic() + grace_seconds
        if not self._passed_on and folder is not None:
            RunFolder(folder).stop.touch()
            self._passed_on = True
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise KeyboardInterrupt
