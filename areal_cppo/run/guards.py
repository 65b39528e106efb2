"""What ends a run from inside: steps that teach nothing, workers that are gone."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from math import isfinite

from areal_cppo.errors import RunError
from areal_cppo.rollout.ledger_controller import GaveUp

_UPDATE = "ppo_actor/update"
_WATCHED = (f"{_UPDATE}/actor_loss/avg", f"{_UPDATE}/grad_norm")
_SUCCESS = f"{_UPDATE}/update_successful"
_POLL_SECONDS = 5.0


class NonFinite(GaveUp):
    """The loss or its gradient is not a number, again and again."""


class NonFiniteGuard:
    """Observer that ends a run whose loss or gradient stays not a number.

    Raises
    ------
    NonFinite
        After `limit` such steps in a row.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.in_a_row = 0

    def step_done(self, step: int, stats: Mapping[str, float]) -> None:
        wrong = [key for key in _WATCHED if not isfinite(stats.get(key, 0.0))]
        if stats.get(_SUCCESS, 1.0) == 0.0:
            wrong.append(_SUCCESS)
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        if self.in_a_row >= self.limit:
            raise NonFinite(
                f"expected a finite loss and gradient, found {self.in_a_row} steps "
                f"in a row, up to step {step}, without ({wrong[0].split('/')[-1]}): "
                "lower the learning rate or compute in a wider dtype, and start again "
                "to go on from a checkpoint (limit: watchdog.nonfinite_steps)"
            )


class WorkerWatch(threading.Thread):
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
        super().__init__(daemon=True, name="worker-watch")
        self.addresses = dict(addresses)
        self.silent_seconds = silent_seconds
        self.on_lost = on_lost
        self._end = threading.Event()

    def end(self) -> None:
        """Stop looking: the workers are about to be ended."""
        self._end.set()

    def run(self) -> None:
        heard = dict.fromkeys(self.addresses, time.monotonic())
        while not self._end.wait(min(_POLL_SECONDS, self.silent_seconds / 4)):
            for name, address in self.addresses.items():
                if _answers(address, min(_POLL_SECONDS, self.silent_seconds / 4)):
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
