"""A generation server: requests share its decoding speed.

Running requests all advance at the same pace, so one number says how far every one of
them is: the tokens that a request which had always been running would have ("virtual
time" of processor sharing). A request that starts at v and has n tokens to generate is
done when that number is v + n, whatever comes and goes in between. The server needs one
alarm, for the next request to be done, and nothing per token.

While a prompt is prefilled nothing is decoded, as with SGLang's defaults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

import simpy

from areal_cppo.plan.admission import Group
from areal_cppo.plan.rates import ServerRates

# A request is done if it lacks less than that: sums of floats are not exact.
_TOKENS = 1e-6


@dataclass(slots=True, eq=False)
class Request:
    """One response being made.

    Attributes
    ----------
    group
        Whose response it is.
    left
        Tokens still to be generated, counted from when the server last took it up.
    done
        Tokens of earlier versions, which a server must prefill again.
    interruptions
        By weight updates, while it was running.
    oldest
        Version of the weights that made its first token; None before.
    """

    group: Group
    left: int
    done: int = 0
    interruptions: int = 0
    oldest: int | None = None
    start: float = 0.0  # in the server's virtual time

    def made(self, tokens: int, version: int) -> None:
        """So many more tokens are there, of weights of this version."""
        if not tokens:
            return
        self.left -= tokens
        self.done += tokens
        if self.oldest is None:
            self.oldest = version
        counts = self.group.tokens
        counts[version] = counts.get(version, 0) + tokens


@lru_cache(maxsize=16)
def _paces(rates: ServerRates) -> tuple[float, ...]:
    """Tokens/s of one request, by the number of running ones."""
    each = (rates.tokens_per_second(n) / n for n in range(1, rates.slots + 1))
    return (0.0, *each)


class Server:
    """Runs up to `slots` requests; others wait in the order in which they came.

    Parameters
    ----------
    env
        The simulation's clock.
    rates
        What it can do.
    speed
        Its speed as a share of the rates': prefill and decoding.
    finished
        Called with each request that is done, at that moment.
    busy_changed
        Called with +1 when it starts to be busy, -1 when it ceases.
    """

    def __init__(
        self,
        env: simpy.Environment,
        rates: ServerRates,
        speed: float,
        finished: Callable[[Request], None],
        busy_changed: Callable[[int], None],
    ):
        self.env = env
        self.rates = rates
        self.speed = speed
        self.slots = rates.slots
        self.finished = finished
        self.busy_changed = busy_changed
        self.queue: deque[Request] = deque()
        self.running: list[tuple[float, int, Request]] = []  # a heap, by end
        self.stopped = False
        self.slowdown = 1.0
        self.generated = 0  # tokens
        self.prefilled = 0  # tokens
        self.occupied = 0.0  # requests * seconds
        self.busy = 0.0  # seconds
        self._pace = _paces(rates)
        self._virtual = 0.0
        self._prefill_until = 0.0
        self._now = 0.0
        self._serial = 0
        self._alarm = 0
        self._busy = False
        self._cached: set[int] = set()

    def submit(self, requests: list[Request]) -> None:
        """Requests that arrive now."""
        self.queue.extend(requests)
        if not self.stopped and len(self.running) < self.slots:
            self._advance()
            self._start()

    def stop(self, version: int) -> list[Request]:
        """A weight update begins: hand back all requests, with what they have so far.

        `version` is that of the weights which made it. The cache is void after this.
        """
        self._advance()
        for _, _, request in self.running:
            tokens = min(int(self._virtual - request.start + _TOKENS), request.left)
            request.made(tokens, version)
            request.interruptions += 1
            self.generated += tokens
        requests = [request for _, _, request in sorted(self.running)]
        requests.extend(self.queue)
        self.running.clear()
        self.queue.clear()
        self._cached.clear()
        self._prefill_until = self.env.now
        self.stopped = True
        self._alarm += 1
        self._tell()
        return requests

    def resume(self) -> None:
        """The new weights are loaded."""
        self._advance()
        self.stopped = False
        self._start()

    def slow_down(self, slowdown: float) -> None:
        """From now on so many times slower."""
        self._advance()
        if self._prefill_until > self.env.now:
            left = self._prefill_until - self.env.now
            self._prefill_until = self.env.now + left * slowdown / self.slowdown
        self.slowdown = slowdown
        self._set_alarm()

    def settle(self) -> None:
        """Bring the sums up to now."""
        self._advance()

    def _advance(self) -> None:
        """Bring virtual time and sums up to now."""
        now = self.env.now
        number = len(self.running)
        if number and now > self._now:
            elapsed = now - self._now
            self.busy += elapsed
            self.occupied += number * elapsed
            decoding = now - max(self._now, self._prefill_until)
            if decoding > 0:
                self._virtual += decoding * self._pace[number] * self._factor()
        self._now = now

    def _start(self) -> None:
        """Give free slots to those who wait."""
        seconds, rates = 0.0, self.rates
        if not self.running:
            self._virtual = 0.0  # small sums are exact
        while self.queue and len(self.running) < self.slots:
            request = self.queue.popleft()
            tokens = request.done
            group = request.group
            if not rates.prefix_caching or group.number not in self._cached:
                tokens += group.prompt_tokens
                if rates.prefix_caching:
                    self._cached.add(group.number)
            self.prefilled += tokens
            seconds += tokens / rates.prefill_tokens_per_second + rates.prefill_seconds
            request.start = self._virtual
            self._serial += 1
            entry = (self._virtual + request.left, self._serial, request)
            heappush(self.running, entry)
        if seconds:
            begin = max(self.env.now, self._prefill_until)
            self._prefill_until = begin + seconds * self.slowdown / self.speed
        self._tell()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Wake up when the next request is done."""
        self._alarm += 1
        if not self.running:
            return
        tokens = max(0.0, self.running[0][0] - self._virtual)
        wait = max(0.0, self._prefill_until - self.env.now)
        wait += tokens / (self._pace[len(self.running)] * self._factor())
        event = self.env.timeout(wait, self._alarm)
        event.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        if event.value != self._alarm:
            return  # something came in between, and set another
        self._advance()
        done = []
        # The first one is done by definition, whatever rounding says.
        limit = max(self._virtual, self.running[0][0]) + _TOKENS
        while self.running and self.running[0][0] <= limit:
            done.append(heappop(self.running)[2])
        self._start()
        for request in done:
            self.generated += request.left
            self.finished(request)

    def _factor(self) -> float:
        """Its speed now as a share of the rates'."""
        return self.speed / self.slowdown

    def _tell(self) -> None:
        """Say whether it is busy, if that has changed."""
        busy = bool(self.running)
        if busy != self._busy:
            self._busy = busy
            self.busy_changed(1 if busy else -1)
