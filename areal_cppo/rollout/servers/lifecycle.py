"""The server that a rollout worker owns: started, watched, ended, started again.

What makes a server fail: its process ended; nobody listens on its port; it is silent
for `hang_seconds` (also: one of its processes is stopped); `nonsense` unusable answers
in a row; a weight update, pause or continue that failed. The silence is that of a
request which the scheduler process answers between two batches, also while paused; any
response counts as well. While it loads weights, or waits for them to come over the
wire, it answers nothing, and only stopped processes and `update_seconds` count.

A server that comes back is started from the folder of the newest weights, which stays
until then; those of updates that begin meanwhile it loads as the others do. Until it
holds the newest its gate is closed (`areal_cppo.serving.guard`), so that no other
worker gets tokens from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from areal.api.io_struct import HttpRequest
from areal.utils import logging

from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.servers.client import ServerClient, ServerError
from areal_cppo.rollout.servers.process import Launch, LiveServer
from areal_cppo.rollout.servers.state import DOWN, LOST, UP, ServerState
from areal_cppo.rollout.servers.weights import Weights, WireUpdates

logger = logging.getLogger("OwnedServer")


class OwnedServer(ServerState):
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
    poll_seconds
        Between two looks at a server that starts or loads weights.
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
        poll_seconds: float = 0.5,
    ):
        super().__init__(client.address, first, on_state)
        self.settings = settings
        self._live = LiveServer(
            client, launch, backend, settings, start_seconds, poll_seconds
        )
        self._wire = WireUpdates(client, settings.update_seconds)
        self._backend = backend
        self._reading: Weights | None = None  # what it is started from, or loads
        self._updating = self._loading = self._paused = self._offloaded = False
        self._closed = False
        self._wake = threading.Event()
        self._healthy_since = time.monotonic()
        self._nonsense = 0

    @property
    def can_rejoin(self) -> bool:
        return not self._wire.joined

    def start(self) -> None:
        """Start it for the first time; returns once it serves.

        Raises
        ------
        ServerError
            It ended, or did not answer in time.
        """
        try:
            self._come_up()
        except ServerError:
            self.close()
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
            self._live.close()
        self._wake.set()

    def fail(self, reason: str) -> None:
        """It is of no use as it is: end it; the watching thread starts it again."""
        with self._lock:
            if self.state != UP or self._closed:
                return
            self._enter(DOWN, reason, "server_down")
            self._live.kill()
        self._wake.set()

    def answered(self, wrong: str | None) -> None:
        """A request was answered: `wrong` says what was unusable about it."""
        if wrong is None:
            self._live.alive_now()
        with self._lock:
            self._nonsense = self._nonsense + 1 if wrong is not None else 0
            too_often = self._nonsense >= self.settings.nonsense
        if too_often:  # ending it takes a while: not in the caller's event loop
            reason = f"{self.settings.nonsense} unusable answers in a row: {wrong}"
            threading.Thread(target=self.fail, args=(reason,)).start()

    def update(
        self, weights: Weights, wait_for_files: Callable[[], None]
    ) -> str | None:
        """Give it new weights, once their files are written.

        A server that is not `up`, or fails meanwhile, gets them when it comes back.

        Returns
        -------
        str or None
            The folder of older weights that it still reads, which has to stay.

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
                self.newest = weights
                self._loading = self.state == UP
                older = self._reading
            if self._loading:
                self._live.load(weights)
                self._live.open_for(weights)
                self.served = weights.version
        except ServerError as error:
            self.fail(f"the update to version {weights.version} failed: {error}")
        finally:
            with self._lock:
                self._updating = self._loading = False
                self._live.alive_now()
        return older.path if older is not None else None

    def join(self, request: HttpRequest) -> None:
        """Join the group over which weights will come; it can't come back from then on.

        This and `receive` raise `ServerError`, and so does `resume` after them: nobody
        gets weights unless all do.
        """
        self._over_the_wire(lambda: self._wire.join(request))

    def receive(self, version: int, requests: Sequence[HttpRequest]) -> None:
        """Receive a part of a version of the weights; closed until `resume`."""
        self._over_the_wire(lambda: self._wire.receive(version, requests))

    def _over_the_wire(self, call: Callable[[], Weights | None]) -> None:
        with self._lock:
            if self.state != UP:
                raise ServerError(f"it is {self.state}: {self.reason}")
            self._loading = True
        try:
            weights = call()
            if weights is not None:
                self.newest, self.served = weights, weights.version
        except ServerError as error:
            self.fail(f"a weight update over the wire failed: {error}")
            raise
        finally:
            with self._lock:
                self._loading = False
                self._live.alive_now()

    def pause(self) -> None:
        """Stop generation; requests under way are answered with what there is."""
        self._if_up(self._live.pause, _paused=True)

    def resume(self) -> None:
        """Go on generating, with the weights that came over the wire if some did."""
        if self._wire.joined:
            self._over_the_wire(self._wire.complete)
        self._if_up(self._live.tell, self._backend.get_resume_request(), _paused=False)

    def offload(self, **tags: list[str] | None) -> None:
        """Give up the GPU's memory; a server that is down is not started meanwhile."""
        request = self._backend.get_offload_request(**tags)
        self._if_up(self._live.tell, request, _offloaded=True)

    def onload(self, tags: list[str] | None = None) -> None:
        """Take the GPU's memory again."""
        request = self._backend.get_onload_request(tags=tags)
        self._if_up(self._live.tell, request, _offloaded=False)
        self._wake.set()

    def _if_up(self, call: Callable[..., None], *arguments, **flag: bool) -> None:
        with self._lock:  # a server that comes back sees the flag, or is told
            self.__dict__.update(flag)
            up = self.state == UP
        if not up:
            return
        try:
            call(*arguments)
        except ServerError as error:
            self.fail(str(error))

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
            self._live.check_alive()
            if not loading:
                self._live.check_answers()
        except ServerError as error:
            if loading or not self._loading:  # else it began to load while asked
                self.fail(str(error))

    def _bring_back(self) -> None:
        """One attempt to have it `up` again."""
        if not self.can_rejoin:
            reason = f"{self.reason}; with weight_update_mode xccl it can't come back"
            return self._enter(LOST, reason, "server_lost")
        if self.restarts >= self.settings.restarts:
            return self._enter(LOST, self.reason, "server_lost")
        self.restarts += 1
        self._enter(DOWN, self.reason, "server_restarting")
        try:
            self._come_up()
        except ServerError as error:
            with self._lock:
                self._reading = None
                self.reason = f"{self.reason}; it did not come back: {error}"[:500]
            self._live.kill()
            self._wake.set()
        return None

    def _come_up(self) -> None:
        """Start it with the newest weights, and with what came meanwhile; then `up`."""
        held = self._read_newest()
        self._live.spawn(held)
        while not self._admitted(held):
            newest = self._read_newest()
            if newest is not held:
                self._live.while_alive(self._live.load, newest)
                held = newest

    def _read_newest(self) -> Weights:
        with self._lock:
            self._reading = self.newest
            return self.newest

    def _admitted(self, held: Weights) -> bool:
        """Open it, unless there are newer weights; paused, if the others are."""
        self._live.wait_while(lambda: self._updating)  # there will be newer ones
        with self._lock:
            if self._updating or self.newest is not held:
                return False
            if self._paused:
                request = self._backend.get_pause_request()
                self._live.client.send(request, self.settings.hang_seconds)
            self._live.open_for(held)
            self._reading = None
            self.served = held.version
            self._healthy_since = time.monotonic()
            self._nonsense = 0
            self._enter(UP, "", "server_up")
            return True
