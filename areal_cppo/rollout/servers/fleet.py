"""All servers: as a worker sees them, and as the controller does.

A worker sends requests to those that it holds for `up` (`Fleet`). A thread of the
controller (`FleetWatch`) asks each rollout worker every few seconds how its server is
(`server_status`), tells it how the others are, hands what happened on to `listeners`
(an event a dict, see `areal_cppo.rollout.servers.state`), and ends a run with too few.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from areal.utils import logging

from areal_cppo.config.operation import ServersConfig
from areal_cppo.errors import RunError
from areal_cppo.rollout.servers.state import LOST, UP

logger = logging.getLogger("FleetWatch")

Listener = Callable[[dict[str, Any]], None]

_TIMEOUT_SECONDS = 30.0
_UNREACHABLE = 3  # looks in a row at a worker to which no connection was had

# AReaL's errors, by name: its schedulers have no class for them in common.
GONE = ("RPCConnectionError", "WorkerFailedError", "WorkerNotFoundError")

# After a failed request a server is asked again this much later, if others are there.
AVOID_SECONDS = 5.0


class Fleet:
    """All servers, as one worker sees them; safe to use from several threads.

    Parameters
    ----------
    addresses
        `host:port` of each, in an order that all workers share.
    own
        The worker's own server, asked before the others; None: it has none.
    """

    def __init__(self, addresses: Collection[str] = (), own: str | None = None):
        self.own = own
        self._lock = threading.Lock()
        self._states = dict.fromkeys(addresses, UP)
        self._avoided: dict[str, float] = {}
        self._next = 0

    def update(self, states: dict[str, str]) -> None:
        """Learn the states of all servers; of the own one the worker knows better."""
        with self._lock:
            own = self._states.get(self.own, UP) if self.own is not None else None
            self._states = dict(states)
            if own is not None:
                self._states[self.own] = own

    def set_state(self, address: str, state: str) -> None:
        """Learn the state of one server."""
        with self._lock:
            self._states[address] = state
            self._avoided.pop(address, None)

    def state(self, address: str) -> str:
        """As far as is known."""
        with self._lock:
            return self._states.get(address, UP)

    def avoid(self, address: str) -> None:
        """A request to it failed: ask others first for a while."""
        with self._lock:
            self._avoided[address] = time.monotonic() + AVOID_SECONDS

    def addresses(self) -> list[str]:
        """All servers, whatever their state."""
        with self._lock:
            return list(self._states)

    def choose(
        self, tried: Collection[str] = (), prefer: str | None = None
    ) -> str | None:
        """The server to ask next; None: none is up.

        `prefer` (which has the start of a response in its cache) and then the own one,
        if up, not in `tried` and not just failed; then the others, in turn; then, if
        there is nothing else, those that were tried or have just failed.
        """
        now = time.monotonic()
        with self._lock:
            names = list(self._states)
            up = [name for name in names if self._states[name] == UP]
            if not up:
                return None

            def poor(name: str) -> tuple[bool, float]:
                failed = self._avoided.get(name, 0.0)
                return name in tried, failed if failed > now else 0.0

            best = min(map(poor, up))
            good = [name for name in up if poor(name) == best]
            for first in (prefer, self.own):
                if first in good:
                    return first
            self._next += 1
            return good[self._next % len(good)]


class FleetWatch:
    """Asks the workers; safe to be stopped from another thread.

    Parameters
    ----------
    ask
        `await ask(rank, states)`: a worker's `server_status`. It raises if the worker
        can't be reached.
    servers
        `host:port` of each worker's server, by rank.
    settings
        Of `rollout.servers`.
    end_run
        Called once, with the reason.
    log
        Where the servers' output is, for people.
    listeners
        Called with each event, in this thread; they may be added later.
    """

    def __init__(
        self,
        ask: Callable[[int, dict[str, str]], Any],
        servers: list[str],
        settings: ServersConfig,
        end_run: Callable[[RunError], None],
        log: str,
        listeners: list[Listener],
    ):
        self.states = dict.fromkeys(servers, UP)
        self.failure: RunError | None = None
        self._ask = ask
        self._servers = servers
        self._settings = settings
        self._end_run = end_run
        self._log = log
        self._listeners = listeners
        self._events: list[dict[str, Any]] = []
        self._restarts = dict.fromkeys(servers, 0)
        self._reasons = dict.fromkeys(servers, "")
        self._final: set[str] = set()  # servers without which the run can't go on
        self._unreachable = [0] * len(servers)
        self._heard = [time.monotonic()] * len(servers)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _run(self) -> None:
        seconds = max(1.0, self._settings.health_seconds)
        while not self._stop.wait(seconds):
            try:
                asyncio.run(self.look())
            except Exception:  # this thread must not die
                logger.exception("looking at the servers failed")
            if self.failure is not None:
                return

    async def look(self) -> None:
        """Ask all workers once, and end the run if it has to end."""
        ranks = range(len(self._servers))
        await asyncio.gather(*[self._look_at(rank) for rank in ranks])
        failure = self._verdict()
        if failure is not None and not self._stop.is_set():
            self.failure = failure
            self._end_run(failure)

    async def _look_at(self, rank: int) -> None:
        try:
            status = await asyncio.wait_for(
                self._ask(rank, dict(self.states)), _TIMEOUT_SECONDS
            )
        except Exception as error:
            gone = type(error).__name__ in GONE
            # Busy with a weight update, it does not answer: only silence counts then.
            self._unreachable[rank] = self._unreachable[rank] + 1 if gone else 0
            return
        self._unreachable[rank], self._heard[rank] = 0, time.monotonic()
        server = status["server"]
        for event in status["events"]:
            if event["event"] == "server_down":
                self._reasons[server] = event["reason"]
        self._events += status["events"]
        self._tell()
        self.states[server] = status["state"]
        if not status["can_rejoin"]:
            self._final.add(server)
        self._restarts[server] = status["restarts"]
        if status["reason"]:
            self._reasons[server] = status["reason"]

    def _tell(self) -> None:
        """Hand on what happened; it waits while there is nobody to hear it."""
        if not self._listeners:
            return
        told, self._events = self._events, []
        for event in told:
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:  # theirs, and not worth a run
                    logger.exception("a listener failed")

    def _verdict(self) -> RunError | None:
        """Why the run can't go on; None: it can."""
        silent = self._settings.update_seconds + self._settings.hang_seconds
        for rank, server in enumerate(self._servers):
            if self._unreachable[rank] >= _UNREACHABLE:
                what = "could not be reached any more"
            elif time.monotonic() - self._heard[rank] > silent + _TIMEOUT_SECONDS:
                what = f"was silent for {time.monotonic() - self._heard[rank]:.0f} s"
            else:
                continue
            return RunError(
                f"the rollout worker {rank}, with the generation server {server}, "
                f"{what}; see {self._log}; start the run again to go on from its last "
                "checkpoint"
            )
        lost = [name for name, state in self.states.items() if state == LOST]
        left = len(self._servers) - len(lost)
        fewest = min(self._settings.fewest, len(self._servers))
        if self._final.intersection(lost):
            fewest = len(self._servers)  # weights go to all of them or to none
        if left >= fewest:
            return None
        told = "; ".join(
            f"{name} was started again {self._restarts[name]} times "
            f"({' '.join(self._reasons[name].split())[:200]})"
            for name in lost
        )
        return RunError(
            f"expected at least {fewest} generation servers, found {left} left: "
            f"{told}; see {self._log}; limit: rollout.servers.restarts"
        )
