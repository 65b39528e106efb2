"""Processes that compute rewards, each ended when an answer takes too long.

AReaL's `AsyncRewardWrapper` gives up on an answer that hangs but not on its process,
which stays in the pool for ever; it tries four times, then says 0; and its processes
are forks of a program with dozens of threads and open connections. Here a process is
started afresh (`worker.py`), killed at the time limit, and replaced. Arguments travel
as JSON: an image could not, if somebody tried. (pebble's pool, 5.2.3, ends for good
when an idle process dies, and runs the main module again in each.)
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from areal_cppo.rewards.parts import Reward

_START_SECONDS = 120.0  # to import the function, on a machine that is busy
_GRACE_SECONDS = 30.0


class RewardTimeout(Exception):
    """The answer could not be checked in time."""


class RewardError(Exception):
    """The reward function raised, or its process died; says how, not on what.

    `text` is the error's own, which may quote the response: not for a log.
    """

    def __init__(self, how: str, text: str = ""):
        super().__init__(how)
        self.text = text


class RewardPool:
    """Computes rewards in a few processes of their own.

    Parameters
    ----------
    function
        Where the reward function is (`loading.py`). It is called with keywords, in
        the main thread of a process that has imported only its module.
    timeout_seconds
        Of one call. Waiting for a process, and its start, do not count.
    processes
        At most; they are started as they are needed.
    weights
        Of the parts that the function returns, as `Reward.of` takes them.
    """

    def __init__(
        self,
        function: str,
        timeout_seconds: float,
        processes: int = 4,
        weights: Mapping[str, float] | None = None,
    ):
        self.function = function
        self.timeout_seconds = timeout_seconds
        self.weights = dict(weights or {})
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reward")
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check(self, names: Iterable[str]) -> None:
        """See whether the function is there and takes keywords of these names.

        Raises `RewardTimeout` or `RewardError`.
        """
        call = {"arguments": dict.fromkeys(names), "weights": None}
        self._threads.submit(self._ask, json.dumps(call)).result()

    def submit(self, /, **arguments: Any) -> Future[Reward]:
        """Compute one reward; `arguments` have to be plain data (JSON).

        The future raises `RewardTimeout` or `RewardError`; `asyncio.wrap_future` makes
        an awaitable of it.
        """
        call = {"arguments": arguments, "weights": self.weights}
        return self._threads.submit(self._compute, json.dumps(call))

    def _compute(self, call: str) -> Reward:
        return Reward(**self._ask(call))

    def _ask(self, call: str) -> dict[str, Any]:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self.function, self.timeout_seconds)
        try:
            reply = worker.ask(call, self.timeout_seconds)
        except BaseException:
            worker.end()
            raise
        self._idle.put(worker)
        if "error" in reply:
            raise RewardError(reply["error"], reply.get("text", ""))
        return reply

    def close(self) -> None:
        """Wait for what was submitted, and end the processes."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().end()


@functools.cache
def shared_pool(
    function: str,
    timeout_seconds: float,
    processes: int,
    weights: tuple[tuple[str, float], ...],
) -> RewardPool:
    """The pool of this process: AReaL makes a workflow for every group."""
    return RewardPool(function, timeout_seconds, processes, dict(weights))


def function_name(function: Callable[..., Any] | str) -> str:
    """How another process finds a function; a string is returned as it is.

    Raises
    ------
    ValueError
        It is a lambda or stands inside another function.
    """
    if isinstance(function, str):
        return function
    if "<" in function.__qualname__:
        raise ValueError(
            "reward_fn: expected the name of a function, such as package.module.name, "
            f"found {function.__qualname__}, which no other process can import; move "
            "it to the top of a module"
        )
    return f"{function.__module__}.{function.__qualname__}"


class _Worker:
    """One process; used by one thread at a time."""

    def __init__(self, function: str, timeout_seconds: float):
        environment = dict(os.environ)
        # The process finds what this one would.
        environment["PYTHONPATH"] = os.pathsep.join(path or "." for path in sys.path)
        # Should this process be gone, nobody else would end one that hangs.
        last_resort = str(2 * timeout_seconds + _GRACE_SECONDS)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "areal_cppo.rewards.worker", function, last_resort],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._ready = False

    def ask(self, call: str, timeout_seconds: float) -> dict[str, Any]:
        """Send a call and wait for its answer; raises as `RewardPool.submit` says."""
        if not self._ready:
            said = self._answer(_START_SECONDS)
            if "error" in said:
                raise RewardError(said["error"])
            self._ready = True
        try:
            # Never blocks for long: a process that has answered is reading.
            self._process.stdin.write(call.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RewardError(self._obituary()) from None
        return self._answer(timeout_seconds)

    def _answer(self, timeout_seconds: float) -> dict[str, Any]:
        answers = self._process.stdout
        poll = select.poll()  # select() fails above file descriptor 1023
        poll.register(answers, select.POLLIN | select.POLLHUP)
        if not poll.poll(timeout_seconds * 1000):
            raise RewardTimeout(f"no answer within {timeout_seconds:g} s")
        line = answers.readline()  # short, and written at once
        if not line:
            raise RewardError(self._obituary())
        return json.loads(line)

    def _obituary(self) -> str:
        return f"the process ended with exit code {self._process.wait()}"

    def end(self) -> None:
        """Kill the process and those it started, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # of a call it never read
            self._process.stdin.close()
