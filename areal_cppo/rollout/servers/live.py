"""What can be done to a server and seen of it; what follows: `owned.OwnedServer`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from areal_cppo.config.servers import ServersConfig
from areal_cppo.rollout.servers.http import (
    HEALTH,
    HEARTBEAT,
    ServerClient,
    ServerError,
)
from areal_cppo.rollout.servers.process import Launch, ServerProcess
from areal_cppo.rollout.servers.weights import Weights

_POLL_SECONDS = 0.5
_REFUSED_BEATS = 2  # a single refused connection may be a full backlog


class LiveServer:
    """A server's processes and its HTTP; safe to use from several threads.

    Parameters
    ----------
    client, launch, backend, settings, start_seconds
        As `OwnedServer` takes them.
    """

    def __init__(
        self,
        client: ServerClient,
        launch: Launch,
        backend,
        settings: ServersConfig,
        start_seconds: float,
    ):
        self.client = client
        self.backend = backend
        self.settings = settings
        self._start_seconds = start_seconds
        self._process = ServerProcess(launch)
        self._lock = threading.RLock()  # of the processes
        self._closed = False
        self._answered = time.monotonic()
        self._refused = 0

    def close(self) -> None:
        """End it, and start it no more."""
        with self._lock:
            self._closed = True
            self._process.kill()

    def kill(self) -> None:
        """End all of its processes."""
        with self._lock:
            self._process.kill()

    def spawn(self) -> None:
        """Start it and wait until it answers.

        Raises
        ------
        ServerError
            It ended, or did not answer in time.
        """
        with self._lock:
            self._check_open()
            self._process.spawn()
        started = time.monotonic()
        while time.monotonic() - started < self._start_seconds:
            self.check_alive()
            try:
                self.client.send(HEALTH, timeout=30.0)
            except ServerError:
                time.sleep(_POLL_SECONDS)
                continue
            self.check_alive()  # looks up what it has started, too
            self.alive_now()
            return
        raise ServerError(f"no answer to /health in {self._start_seconds:.0f} s")

    def alive_now(self) -> None:
        """It has just shown that it works."""
        self._answered, self._refused = time.monotonic(), 0

    def check_alive(self) -> None:
        """Raise `ServerError` if a process of it ended or is stopped for too long."""
        with self._lock:
            self._check_open()
            code, stopped = self._process.exit_code(), self._process.stopped_for()
        if code is not None:
            raise ServerError(f"its process ended with exit code {code}")
        if stopped > self.settings.hang_seconds:
            raise ServerError(f"one of its processes was stopped for {stopped:.0f} s")

    def check_answers(self) -> None:
        """Raise `ServerError` if nobody listens, or it was silent for too long."""
        limit = self.settings.hang_seconds
        left = limit - (time.monotonic() - self._answered)
        try:
            self.client.send(HEARTBEAT, timeout=min(max(left, 1.0), limit))
        except ServerError as error:
            self._refused = self._refused + 1 if error.gone else 0
            if self._refused >= _REFUSED_BEATS:
                raise ServerError(f"nobody listens on its port: {error}") from None
            if time.monotonic() - self._answered > limit:
                raise ServerError(f"silent for {limit:.0f} s: {error}") from None
            return
        self.alive_now()

    def pause(self) -> None:
        """Stop generation; requests under way are answered with what there is."""
        request = self.backend.get_pause_request()
        self.client.pause(request, self.settings.update_seconds)

    def load(self, weights: Weights, verify: bool) -> None:
        """Have it load weights, and see whether it holds them."""
        weights.load_into(self.client, self.backend, self.settings.update_seconds)
        if verify:
            self.verify(weights)

    def verify(self, weights: Weights) -> None:
        """Raise `ServerError` unless it holds these weights."""
        different = self.client.compare(
            weights.path, weights.adapter, self.settings.update_seconds
        )
        if different is not None:
            raise ServerError(
                f"it does not hold version {weights.version} of the weights: "
                f"{different}"
            )

    def open_for(self, weights: Weights | None) -> None:
        """Let it serve, with these weights; None: not at all."""
        version = None if weights is None else weights.version
        self.client.open_for(version, self.settings.hang_seconds)
        self.alive_now()

    def while_alive(self, call: Callable[[], None]) -> None:
        """Call it, in another thread, and give it up if the server is of no use."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            try:
                while not future.done():
                    wait([future], _POLL_SECONDS)
                    self.check_alive()
            except ServerError:
                self.kill()  # which ends the call, too
                raise
        future.result()

    def _check_open(self) -> None:
        if self._closed:
            raise ServerError("the run ends")
