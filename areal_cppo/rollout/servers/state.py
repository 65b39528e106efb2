"""Where a generation server stands, and what happens to it.

| state | means |
| --- | --- |
| `starting` | for the first time |
| `up` | it serves, with the newest weights |
| `down` | it failed and was ended, or is being started again |
| `lost` | it won't be started again |

| `event` | besides `server` (`host:port`), `reason`, `version`, `seconds`, `time` |
| --- | --- |
| `server_down` | it failed and was ended; `version` is the newest of the weights |
| `server_restarting` | it is started again, `restarts` times by now |
| `server_up` | it serves, `seconds` after it failed (or after it was first started) |
| `server_lost` | it won't be started again |
| `request_resent` | `count` requests that it failed were sent elsewhere |
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from areal.utils import logging

from areal_cppo.rollout.servers.weights import Weights

logger = logging.getLogger("ServerState")

STARTING, UP, DOWN, LOST = "starting", "up", "down", "lost"


class ServerState:
    """The state of one server; safe to use from several threads.

    Parameters
    ----------
    address
        `host:port`.
    first
        The weights it is started with.
    on_state
        Called with each new state.

    Attributes
    ----------
    state, reason
        See the module; why it is not `up`.
    newest
        The weights that it should serve.
    served
        Version of the weights that it serves; None before it was `up`.
    restarts
        How often it was started again; 0 again after `healthy_seconds`.
    can_rejoin
        False once its weights come over the wire.
    """

    can_rejoin = True

    def __init__(self, address: str, first: Weights, on_state: Callable[[str], None]):
        self.address = address
        self.newest = first
        self.state, self.reason = STARTING, ""
        self.served: int | None = None
        self.restarts = 0
        self._on_state = on_state
        self._lock = threading.RLock()
        self._down_since = time.monotonic()
        self._events: list[dict[str, Any]] = []
        self._resent: Counter[tuple[str, str]] = Counter()
        self._resent_lock = threading.Lock()  # never held for long

    def status(self) -> dict[str, Any]:
        """What the controller is told; each event once."""
        with self._resent_lock:
            resent, self._resent = self._resent, Counter()
        with self._lock:
            events, self._events = self._events, []
            for (address, reason), count in resent.items():
                event = self._event("request_resent", address, reason)
                events.append(event | {"count": count, "seconds": 0.0})
            return {
                "server": self.address,
                "state": self.state,
                "reason": self.reason,
                "restarts": self.restarts,
                "version": self.served,
                "can_rejoin": self.can_rejoin,
                "events": events,
            }

    def count_resent(self, address: str, reason: str) -> None:
        """A request that another server, or this one, failed was sent again."""
        with self._resent_lock:
            self._resent[address, reason] += 1

    def _enter(self, state: str, reason: str, name: str) -> None:
        """Be in a state from now on; `name` is that of the event."""
        with self._lock:
            if state == DOWN and self.state == UP:
                self._down_since = time.monotonic()
            self.state, self.reason = state, reason
            event = self._event(name, self.address, reason)
            seconds = round(time.monotonic() - self._down_since, 3)
            self._events.append(event | {"restarts": self.restarts, "seconds": seconds})
        self._on_state(state)
        log = logger.info if state == UP else logger.warning
        log("%s %s %s", name, self.address, reason)

    def _event(self, name: str, address: str, reason: str) -> dict[str, Any]:
        return {
            "event": name,
            "server": address,
            "reason": reason,
            "version": self.newest.version,
            "time": time.time(),
        }
