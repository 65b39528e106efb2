"""A server's processes: started, looked at, asked, ended.

What follows from what is seen: `areal_cppo.rollout.servers.lifecycle`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import psutil
from areal.api.cli_args import SGLangConfig
from areal.api.io_struct import HttpRequest
from areal.infra.utils.launcher import TRITON_CACHE_PATH
from areal.utils import logging

from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.servers.client import (
    HEALTH,
    HEARTBEAT,
    ServerClient,
    ServerError,
)
from areal_cppo.rollout.servers.weights import Weights
from areal_cppo.serving.launch import TOKEN_VARIABLE, guarded
from areal_cppo.serving.processes import descendants, end_processes

logger = logging.getLogger("LiveServer")

_KILLED_SECONDS = 10.0  # until what was killed is gone, and its port is free
_REFUSED_BEATS = 2  # a single refused connection may be a full backlog

Launch = Callable[[Weights], subprocess.Popen]


def launcher(args: dict[str, Any], token: str) -> Launch:
    """What starts a server's process with given weights: AReaL's command, guarded.

    The output goes where the worker's does.
    """

    def launch(weights: Weights) -> subprocess.Popen:
        command = SGLangConfig.build_cmd_from_args(args | weights.server_args())
        environment = dict(os.environ)
        environment.pop(TOKEN_VARIABLE, None)
        if token:
            environment[TOKEN_VARIABLE] = token
        # Servers that compile kernels at once must not share a folder.
        cache = environment.get("TRITON_CACHE_PATH", TRITON_CACHE_PATH)
        environment["TRITON_CACHE_PATH"] = os.path.join(cache, str(uuid.uuid4()))
        return subprocess.Popen(
            guarded(command), env=environment, stdout=sys.stdout, stderr=sys.stdout
        )

    return launch


class LiveServer:
    """A server's processes and its HTTP; safe to use from several threads.

    Its processes are looked up while it lives: once it is dead, those that it leaves
    behind are nobody's children any more.

    Parameters
    ----------
    client, launch, backend, settings, start_seconds, poll_seconds
        As `OwnedServer` takes them.
    """

    def __init__(
        self,
        client: ServerClient,
        launch: Launch,
        backend,
        settings: ServersConfig,
        start_seconds: float,
        poll_seconds: float,
    ):
        self.client = client
        self._backend = backend
        self._settings = settings
        self._start_seconds = start_seconds
        self._poll_seconds = poll_seconds
        self._launch = launch
        self._main: subprocess.Popen | None = None
        self._tree: list[psutil.Process] = []
        self._stopped_since: float | None = None
        self._lock = threading.RLock()  # of the processes
        self._closed = False
        self._answered = time.monotonic()
        self._refused = 0

    def close(self) -> None:
        """End it, and start it no more."""
        with self._lock:
            self._closed = True
            self.kill()

    def kill(self) -> None:
        """End all of its processes, also stopped ones; no harm if they are gone."""
        with self._lock:
            if self._main is None:
                return
            tree = {*self._tree, *descendants(self._main.pid)}
            end_processes(tree, grace_seconds=0.0)
            try:
                self._main.wait(_KILLED_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("process %d can't be ended", self._main.pid)

    def spawn(self, weights: Weights) -> None:
        """Start it with these weights, and wait until it answers.

        Raises
        ------
        ServerError
            It ended, or did not answer in time.
        """
        with self._lock:
            self._check_open()
            self._main, self._stopped_since = self._launch(weights), None
            self._look_up()
        started = time.monotonic()
        while time.monotonic() - started < self._start_seconds:
            self.check_alive()
            try:
                self.client.send(HEALTH, timeout=30.0)
            except ServerError:
                time.sleep(self._poll_seconds)
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
            code, stopped = self._main.poll(), self._stopped_for()
        if code is not None:
            raise ServerError(f"its process ended with exit code {code}")
        if stopped > self._settings.hang_seconds:
            raise ServerError(f"one of its processes was stopped for {stopped:.0f} s")

    def _stopped_for(self) -> float:
        """Seconds since one of the processes was first seen stopped (SIGSTOP)."""
        self._look_up()
        if not any(map(_is_stopped, self._tree)):
            self._stopped_since = None
            return 0.0
        self._stopped_since = self._stopped_since or time.monotonic()
        return time.monotonic() - self._stopped_since

    def _look_up(self) -> None:
        try:
            main = psutil.Process(self._main.pid)
            self._tree = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass  # as they were seen last

    def check_answers(self) -> None:
        """Raise `ServerError` if nobody listens, or it was silent for too long."""
        limit = self._settings.hang_seconds
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

    def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait, as long as it lives; raises `ServerError` if it doesn't."""
        while condition():
            self.check_alive()
            time.sleep(self._poll_seconds)

    def tell(self, request: HttpRequest) -> None:
        """Send a request whose answer does not matter; raises `ServerError`."""
        self.client.send(request, self._settings.update_seconds)

    def pause(self) -> None:
        """Stop generation; requests under way are answered with what there is."""
        request = self._backend.get_pause_request()
        self.client.pause(request, self._settings.update_seconds)

    def load(self, weights: Weights) -> None:
        """Have it load weights; raises `ServerError`."""
        weights.load_into(self.client, self._backend, self._settings.update_seconds)

    def while_alive(self, call: Callable[..., None], *arguments) -> None:
        """Call it, in another thread, and give it up if the server is of no use."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call, *arguments)
            try:
                while not future.done():
                    wait([future], self._poll_seconds)
                    self.check_alive()
            except ServerError:
                self.kill()  # which ends the call, too
                raise
        future.result()

    def open_for(self, weights: Weights) -> None:
        """Let it serve, with these weights."""
        self.client.open_for(weights.version, self._settings.hang_seconds)
        self.alive_now()

    def _check_open(self) -> None:
        if self._closed:
            raise ServerError("the run ends")


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
