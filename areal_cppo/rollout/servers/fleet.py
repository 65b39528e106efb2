"""Which server a request goes to: what a worker knows of all servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

UP, LOST = "up", "lost"

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
