"""One setting to simulate: servers and ranks, batch, staleness bound, steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from areal_cppo.errors import UserError
from areal_cppo.plan.rates import Rates

ADMISSIONS = ("areal", "exact")


@dataclass(frozen=True)
class Setting:
    """What is simulated with given rates.

    Attributes
    ----------
    servers, ranks
        Generation servers, and data-parallel ranks of the trainer.
    batch, group
        Prompts a train step, responses a prompt.
    staleness
        The bound: AReaL's `max_head_offpolicyness`.
    admission
        `areal`: a batch is made of the oldest of the groups that have arrived once
        there are enough. The bound then holds for admissions only: what was overtaken
        is trained later, and staler. `exact`: batches are trained in the order of
        admission, each waits for its last group, and no sample exceeds the bound.
    concurrent
        Groups under way at most, AReaL's `max_concurrent_rollouts`; None: so many that
        on average they fill all slots (a group keeps its place until its longest
        response is there), and at least a batch.
    steps, warmup
        Train steps in all, and how many of the first ones the figures leave out.
    speeds
        By number of a server, its speed as a share of the rates': 0.5 is half as fast.
    seed
        Of the lengths drawn.
    refill_seconds
        How long AReaL's dispatcher waits for results before it queues more prompts.
    """

    servers: int
    ranks: int
    batch: int
    group: int
    staleness: int
    steps: int = 20
    warmup: int = 0
    admission: str = "areal"
    concurrent: int | None = None
    speeds: Mapping[int, float] = field(default_factory=dict)
    seed: int = 1
    refill_seconds: float = 1.0

    def __post_init__(self):
        for name, least in (
            ("servers", 1),
            ("ranks", 1),
            ("batch", 1),
            ("group", 1),
            ("staleness", 0),
            ("steps", 1),
            ("warmup", 0),
        ):
            _whole(name, getattr(self, name), least)
        if self.concurrent is not None:
            _whole("concurrent", self.concurrent, 1)
        if self.warmup >= self.steps:
            raise UserError(
                f"warmup: expected fewer steps than all {self.steps}, found "
                f"{self.warmup}; simulate more steps"
            )
        if self.admission not in ADMISSIONS:
            raise UserError(
                f"admission: expected one of {', '.join(ADMISSIONS)}, found "
                f"{self.admission!r}; correct it"
            )
        for server, speed in self.speeds.items():
            if not 0 <= server < self.servers:
                raise UserError(
                    f"speeds: expected servers 0 to {self.servers - 1}, found "
                    f"{server}; correct it"
                )
            if not speed > 0:
                raise UserError(
                    f"speeds: expected a speed > 0, found {speed:g}; correct it"
                )
        if not self.refill_seconds > 0:
            raise UserError(
                f"refill_seconds: expected a number > 0, found "
                f"{self.refill_seconds:g}; correct it"
            )

    @property
    def samples(self) -> int:
        """Responses a train step."""
        return self.batch * self.group

    def groups_at_once(self, rates: Rates) -> int:
        """Groups under way at most."""
        if self.concurrent is not None:
            return self.concurrent
        lengths = rates.response_tokens
        running = self.group * lengths.mean / lengths.longest(self.group)
        return max(self.batch, ceil(self.servers * rates.server.slots / running))


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{name}: expected a whole number >= {least}, found {value}; correct it"
        )
