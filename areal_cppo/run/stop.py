"""What ends a run before its last step: being asked to, signals, workers that are gone.

Whoever wants a run to stop makes the file STOP in its folder; the run finishes its
step, writes a checkpoint, and can be gone on with. The supervisor does so when it gets
a signal.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from areal_cppo.errors import RunError
from areal_cppo.folder import RunFolder

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later

_POLL_SECONDS = 5.0


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
    on_request
        Called once in a thread of its own when the run is asked to stop.
    every_seconds
        Between two looks.
    """

    def __init__(
        self,
        file: Path,
        since: float,
        on_request: Callable[[], None],
        every_seconds: float = 0.5,
    ):
        self.file = file
        self.on_request = on_request
        self.every_seconds = every_seconds
        self._asked = threading.Event()
        if file.exists() and file.stat().st_mtime < since:
            file.unlink()
        threading.Thread(target=self._look, daemon=True, name="stop-request").start()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def _look(self) -> None:
        while not self.file.exists():
            time.sleep(self.every_seconds)
        self._asked.set()
        self.file.unlink(missing_ok=True)
        self.on_request()


class HealthPoll(threading.Thread):
    """Asks every worker for a sign of life; a stopped one would keep the run waiting.

    Parameters
    ----------
    addresses
        Name of each worker -> `host:port` of its RPC server.
    silent_seconds
        How long a worker may not answer.
    on_lost
        Called once, with what is wrong.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        silent_seconds: float,
        on_lost: Callable[[RunError], None],
    ):
        super().__init__(daemon=True, name="health-poll")
        self.addresses = dict(addresses)
        self.silent_seconds = silent_seconds
        self.on_lost = on_lost
        self._end = threading.Event()

    def end(self) -> None:
        """Stop asking: the workers are about to be ended."""
        self._end.set()

    def run(self) -> None:
        heard = dict.fromkeys(self.addresses, time.monotonic())
        every = min(_POLL_SECONDS, self.silent_seconds / 4)
        while not self._end.wait(every):
            for name, address in self.addresses.items():
                if _answers(address, every):
                    heard[name] = time.monotonic()
                silence = time.monotonic() - heard[name]
                if silence > self.silent_seconds and not self._end.is_set():
                    self.on_lost(
                        RunError(
                            f"the worker {name} at {address} did not answer for "
                            f"{silence:.0f} s (limit: watchdog.silent_seconds); its "
                            "last words are in logs/ of the run's folder"
                        )
                    )
                    return


def _answers(address: str, timeout: float) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True  # of whatever kind: it lives
    except OSError:
        return False


class Signals:
    """SIGUSR1, SIGTERM and SIGINT of a supervisor: noted when they come, obeyed when it
    suits.

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
