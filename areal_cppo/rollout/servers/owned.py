"""The server that a rollout worker owns: started, watched, ended, started again.

| state | means |
| --- | --- |
| `starting` | for the first time |
| `up` | it serves, with the newest weights |
| `down` | it failed and was ended, or is being started again |
| `lost` | it won't be started again |

What makes a server fail: its process ended; nobody listens on its port; it is silent
for `hang_seconds` (also: one of its processes is stopped); `nonsense` unusable answers
in a row; a weight update, pause or continue that failed. The silence is that of a
request which the scheduler process answers between two batches, also while paused; any
response counts as well. While it loads weights, or waits for them to come over the
wire, it answers nothing, and only stopped processes and `update_seconds` count.

A server that comes back is `up` once it holds the newest weights (`_catch_up`), as the
comparison with their files says (`areal_cppo.serving.held_weights`); until then its
gate is closed (`areal_cppo.serving.guard`), so that no other worker gets tokens from
it. An update that begins meanwhile makes it load again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from areal.api.io_struct import HttpRequest
from areal.utils import logging

from areal_cppo.config.servers import ServersConfig
from areal_cppo.rollout.servers.fleet import LOST, UP
from areal_cppo.rollout.servers.http import ServerClient, ServerError
from areal_cppo.rollout.servers.live import LiveServer
from areal_cppo.rollout.servers.process import Launch
from areal_cppo.rollout.servers.weights import Weights
from areal_cppo.rollout.servers.wire import WireUpdates

logger = logging.getLogger("OwnedServer")

STARTING, DOWN = "starting", "down"
_POLL_SECONDS = 0.5


class OwnedServer:
    """One server and the thread that watches it.

    Parameters
    ----------
    client
        Speaks to its address, which stays the same over restarts.
    launch
        Starts its process.
    backend
        AReaL's, for the requests of pause, weight updates and so on.
    settings
        Of `rollout.servers`.
    start_seconds
        Longest time until it answers after a start.
    first
        The weights it is started with.
    on_state
        Called with each new state.

    Attributes
    ----------
    state, reason
        See the module; why it is not `up`.
    served
        Version of the weights that it serves; None before it was `up`.
    restarts
        How often it was started again; 0 again after `healthy_seconds`.
    """

    def __init__(
        self,
        client: ServerClient,
        launch: Launch,
        backend,
        settings: ServersConfig,
        start_seconds: float,
        first: Weights,
        on_state: Callable[[str], None] = lambda state: None,
    ):
        self.settings = settings
        self.live = LiveServer(client, launch, backend, settings, start_seconds)
        self.state, self.reason = STARTING, ""
        self.served: int | None = None
        self.restarts = 0
        self.wire = WireUpdates(
            self.live, settings.update_seconds, settings.verify != "never"
        )
        self._on_state = on_state
        self._backend = backend
        self._newest = first
        self._lock = threading.RLock()  # of the state and the flags
        self._updating = self._loading = self._paused = self._offloaded = False
        self._closed = False
        self._wake = threading.Event()
        self._healthy_since = self._down_since = time.monotonic()
        self._nonsense = 0
        self._events: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        """`host:port`."""
        return self.live.client.address

    @property
    def can_rejoin(self) -> bool:
        """False once its weights come over the wire."""
        return not self.wire.joined

    def start(self) -> None:
        """Start it for the first time; returns once it serves.

        Raises
        ------
        ServerError
            It ended, or did not answer in time.
        """
        try:
            self.live.spawn()
            if self.settings.verify != "never":
                self._warn_unless_comparable()
            self._admit(self._newest)
        except ServerError:
            self.close()
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
            self.live.close()
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """What the controller is told; each event once."""
        with self._lock:
            events, self._events = self._events, []
            return {
                "server": self.address,
                "state": self.state,
                "reason": self.reason,
                "restarts": self.restarts,
                "version": self.served,
                "can_rejoin": self.can_rejoin,
                "events": events,
            }

    def fail(self, reason: str) -> None:
        """It is of no use as it is: end it; the watching thread starts it again."""
        with self._lock:
            if self.state != UP or self._closed:
                return
            self._down_since = time.monotonic()
            self._set_state(DOWN, reason, "server_down")
            self.live.kill()
        self._wake.set()

    def answered(self, wrong: str | None) -> None:
        """A request was answered: `wrong` says what was unusable about it."""
        if wrong is None:
            self.live.alive_now()
        with self._lock:
            self._nonsense = self._nonsense + 1 if wrong is not None else 0
            too_often = self._nonsense >= self.settings.nonsense
        if too_often:
            self.fail(f"{self.settings.nonsense} unusable answers in a row: {wrong}")

    def update(self, weights: Weights, wait_for_files: Callable[[], None]) -> None:
        """Give it new weights, once their files are written.

        A server that is not `up`, or fails meanwhile, gets them when it comes back.

        Raises
        ------
        RuntimeError
            The files were not written.
        """
        with self._lock:
            self._updating = True
        try:
            wait_for_files()
            with self._lock:
                self._newest = weights
                self._loading = self.state == UP
            if self._loading:
                self._load_now(weights)
        finally:
            with self._lock:
                self._updating = self._loading = False
                self.live.alive_now()

    def join(self, request: HttpRequest) -> None:
        """Join the group over which weights will come; it can't come back from then on.

        This and `receive` raise `ServerError`, and so does `resume` after them: nobody
        gets weights unless all do.
        """
        self._over_the_wire(lambda: self.wire.join(request))

    def receive(self, version: int, requests: Sequence[HttpRequest]) -> None:
        """Receive a part of a version of the weights; closed until `resume`."""
        self._over_the_wire(lambda: self.wire.receive(version, requests))

    def _over_the_wire(self, call: Callable[[], Weights | None]) -> None:
        with self._lock:
            if self.state != UP:
                raise ServerError(f"it is {self.state}: {self.reason}")
            self._loading = True
        try:
            self._serves(call())
        except ServerError as error:
            self.fail(f"a weight update over the wire failed: {error}")
            raise
        finally:
            with self._lock:
                self._loading = False
                self.live.alive_now()

    def _serves(self, weights: Weights | None) -> None:
        if weights is not None:
            self._newest, self.served = weights, weights.version

    def pause(self) -> None:
        """Stop generation; requests under way are answered with what there is."""
        self._if_up(self.live.pause, _paused=True)

    def resume(self) -> None:
        """Go on generating, with the weights that came over the wire if some did."""
        if self.wire.joined:
            self._over_the_wire(self.wire.complete)
        self._tell_if_up(self._backend.get_resume_request(), _paused=False)

    def offload(self) -> None:
        """Give up the GPU's memory; a server that is down is not started meanwhile."""
        self._tell_if_up(self._backend.get_offload_request(), _offloaded=True)

    def onload(self, tags: list[str] | None = None) -> None:
        """Take the GPU's memory again."""
        request = self._backend.get_onload_request(tags=tags)
        self._tell_if_up(request, _offloaded=False)
        self._wake.set()

    def _tell_if_up(self, request, **flag: bool) -> None:
        seconds = self.settings.update_seconds
        self._if_up(lambda: self.live.client.send(request, seconds), **flag)

    def _if_up(self, call: Callable[[], Any], **flag: bool) -> None:
        with self._lock:  # a server that comes back sees the flag, or is told
            self.__dict__.update(flag)
            up = self.state == UP
        if not up:
            return
        try:
            call()
        except ServerError as error:
            self.fail(str(error))

    def _load_now(self, weights: Weights) -> None:
        try:
            self.live.load(weights, self.settings.verify == "updates")
            self.live.open_for(weights)
            self.served = weights.version
        except ServerError as error:
            self.fail(f"the update to version {weights.version} failed: {error}")

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait(self.settings.health_seconds)
            self._wake.clear()
            try:
                if self.state == UP:
                    self._look()
                elif self.state == DOWN and not self._offloaded:
                    self._bring_back()
            except Exception as error:  # this thread must not die
                logger.exception("watching %s failed", self.address)
                self.fail(f"watching it failed ({type(error).__name__})")

    def _look(self) -> None:
        if time.monotonic() - self._healthy_since > self.settings.healthy_seconds:
            self.restarts = 0
        loading = self._loading
        try:
            self.live.check_alive()
            if not loading:
                self.live.check_answers()
        except ServerError as error:
            if loading or not self._loading:  # else it began to load while asked
                self.fail(str(error))

    def _bring_back(self) -> None:
        """One attempt to have it `up` again."""
        if not self.can_rejoin:
            reason = f"{self.reason}; with weight_update_mode xccl it can't come back"
            return self._set_state(LOST, reason, "server_lost")
        if self.restarts >= self.settings.restarts:
            return self._set_state(LOST, self.reason, "server_lost")
        self.restarts += 1
        self._set_state(DOWN, self.reason, "server_restarting")
        try:
            self.live.spawn()
            self._catch_up()
        except ServerError as error:
            with self._lock:
                self.reason = f"{self.reason}; it did not come back: {error}"[:500]
            self.live.kill()
            self._wake.set()
        return None

    def _catch_up(self) -> None:
        """Have a fresh server hold the newest weights, verified; then it is `up`."""
        verify = self.settings.verify != "never"
        while True:
            while self._updating:  # there will be newer ones
                self.live.check_alive()
                time.sleep(_POLL_SECONDS)
            weights = self._newest
            try:
                self.live.while_alive(lambda: self.live.load(weights, verify))
            except ServerError:
                self.live.check_alive()
                if self._newest is weights and not self._updating:
                    raise
                continue  # its files may be deleted: there are newer ones
            with self._lock:
                if self._newest is weights and not self._updating:
                    return self._admit(weights)

    def _admit(self, weights: Weights) -> None:
        """Open it for requests; paused, if the others are."""
        with self._lock:
            if self._paused:
                request = self._backend.get_pause_request()
                self.live.client.send(request, self.settings.hang_seconds)
            self.live.open_for(weights)
            self.served = weights.version
            self._healthy_since = time.monotonic()
            self._nonsense = 0
            self._set_state(UP, "", "server_up")

    def _warn_unless_comparable(self) -> None:
        try:
            self.live.verify(self._newest)
        except ServerError as error:
            logger.warning(
                "the weights of %s can't be verified: %s. If it fails it will not be "
                "readmitted; rollout.servers.verify=never would take its word.",
                self.address,
                error,
            )

    def _set_state(self, state: str, reason: str, event: str) -> None:
        with self._lock:
            self.state, self.reason = state, reason
            self._events.append(
                {
                    "event": event,
                    "server": self.address,
                    "reason": reason,
                    "version": self._newest.version,
                    "restarts": self.restarts,
                    "seconds": round(time.monotonic() - self._down_since, 3),
                    "time": time.time(),
                }
            )
        self._on_state(state)
        log = logger.info if state == UP else logger.warning
        log("%s %s %s", event, self.address, reason)
