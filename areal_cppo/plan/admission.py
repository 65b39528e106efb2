"""AReaL's dispatcher and its staleness manager: which groups start, which are trained.

As `StalenessManager.get_capacity` and `BatchTaskDispatcher` of AReaL 1.0.4 do it, with
B groups a batch, bound S and weights of version v:

- groups start while fewer than `concurrent` are under way and fewer than
  (S + v + 1) * B have been started in all;
- prompts are queued only while the trainer waits for a batch: B at a time, again after
  a second without a batch, until (S + 1) * B are queued;
- a batch is there as soon as B groups have come back; it is made of those of them that
  were started first;
- while weights are updated none starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import simpy

from areal_cppo.plan.setting import Setting


@dataclass(slots=True, eq=False)
class Group:
    """The responses to one prompt, which are trained together.

    Attributes
    ----------
    number
        In the order of starting, from 0.
    prompt_tokens
        Of the prompt.
    left
        Responses that are not there yet.
    tokens
        Response tokens by the version of the weights that made them.
    oldest
        Of each response that is there, the version of its first token.
    interrupted
        Responses that a weight update has interrupted.
    longest
        Tokens of the longest sequence, prompt included.
    """

    number: int
    prompt_tokens: int
    left: int
    tokens: dict[int, int] = field(default_factory=dict)
    oldest: list[int] = field(default_factory=list)
    interrupted: int = 0
    longest: int = 0

    @property
    def response_tokens(self) -> int:
        """Of all its responses."""
        return sum(self.tokens.values())


class Dispatcher:
    """Starts groups as the bound allows, and collects those that are done.

    Parameters
    ----------
    env
        The simulation's clock.
    setting
        Batch, bound and manner of admission.
    concurrent
        Groups under way at most.
    start
        Called with the number of each group that starts.

    Attributes
    ----------
    version
        Of the weights; the trainer raises it.
    started, returned, trained
        Groups so far.
    held
        Seconds in which no group could start, by what stood against it: `concurrent`
        (too many under way), else the `bound`, else the `queue` (no prompt in it).
    """

    def __init__(
        self,
        env: simpy.Environment,
        setting: Setting,
        concurrent: int,
        start: Callable[[int], None],
    ):
        self.env = env
        self.setting = setting
        self.concurrent = concurrent
        self.start = start
        self.version = 0
        self.started = self.returned = self.trained = 0
        self.queued = 0
        self.results: dict[int, Group] = {}
        self.held = {"concurrent": 0.0, "bound": 0.0, "queue": 0.0}
        self._paused = False
        self._cause: str | None = None
        self._since = 0.0
        self._enough: simpy.Event | None = None

    @property
    def under_way(self) -> int:
        """Groups that have started and are not back."""
        return self.started - self.returned

    def capacity(self) -> int:
        """How many more groups may start; AReaL's formula."""
        return min(self.concurrent - self.under_way, self._allowed())

    def pause(self) -> None:
        """A weight update begins."""
        self._paused = True
        self._note_held()

    def resume(self, version: int) -> None:
        """It is over."""
        self.version = version
        self._paused = False
        self._admit()

    def finish(self, group: Group) -> None:
        """All of a group's responses have their rewards."""
        self.returned += 1
        self.results[group.number] = group
        if self._enough is not None and self._ready():
            self._enough.succeed()
            self._enough = None
        self._admit()

    def wait_batch(self):
        """A simpy process: returns the groups of the next batch."""
        while True:
            self._refill()
            if self._ready():
                return self._take()
            self._enough = self.env.event()
            yield self._enough | self.env.timeout(self.setting.refill_seconds)

    def settle(self) -> None:
        """Bring `held` up to now."""
        self._note_held()

    def _allowed(self) -> int:
        bound = self.setting.staleness + self.version + 1
        return bound * self.setting.batch - self.started

    def _refill(self) -> None:
        batch = self.setting.batch
        room = (self.setting.staleness + 1) * batch - self.queued
        if room > 0:
            self.queued += min(batch, room)
        self._admit()

    def _admit(self) -> None:
        if not self._paused:
            for _ in range(min(self.capacity(), self.queued)):
                self.queued -= 1
                self.started += 1
                self.start(self.started - 1)
        self._note_held()

    def _note_held(self) -> None:
        if self._cause is not None:
            self.held[self._cause] += self.env.now - self._since
        self._since = self.env.now
        if self._paused:
            self._cause = None
        elif self.under_way >= self.concurrent:
            self._cause = "concurrent"
        elif self._allowed() <= 0:
            self._cause = "bound"
        else:
            self._cause = None if self.queued else "queue"

    def _next_numbers(self) -> range:
        return range(self.trained, self.trained + self.setting.batch)

    def _ready(self) -> bool:
        if len(self.results) < self.setting.batch:
            return False
        if self.setting.admission == "areal":
            return True
        return all(number in self.results for number in self._next_numbers())

    def _take(self) -> list[Group]:
        numbers = sorted(self.results)[: self.setting.batch]
        self.trained += len(numbers)
        return [self.results.pop(number) for number in numbers]
