"""Splits, which of them to simulate, and what decides their speed.

The first one simulated is the one with the highest upper bound. Then in turn comes the
middle of the wider gap beside the best one so far, and the one that would be best if
generation stayed as far behind its upper bound everywhere as it did there. A split
whose upper bound is below what another one gives is never simulated, nor one closer
than a given number of servers to another that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from areal_cppo.plan.bounds import StepBound
from areal_cppo.plan.outcome import Outcome
from areal_cppo.plan.setting import Setting

_WAITS = 0.05  # share of the time; a trainer that waits less is the bottleneck
_HELD = 0.3  # share of the time; what holds groups back for longer is named
_FULL = 0.9  # share of the slots, or of the best speed


@dataclass
class Candidate:
    """A split and a bound.

    Attributes
    ----------
    setting
        Servers, ranks, bound and the rest.
    bound
        The least that a step can take.
    outcome
        What the simulation gave; None: it was not simulated.
    """

    setting: Setting
    bound: StepBound
    outcome: Outcome | None = None

    @property
    def most(self) -> float:
        """Upper bound on samples/s."""
        return self.setting.samples / self.bound.seconds()

    @property
    def samples_per_second(self) -> float:
        """Simulated."""
        return self.outcome.samples_per_second if self.outcome else 0.0

    def predicted(self, efficiency: float) -> float:
        """Samples/s if generation reaches that share of its upper bound."""
        return self.setting.samples / self.bound.seconds(efficiency)


def choose(
    candidates: list[Candidate], spacing: float, tries: int
) -> Iterator[Candidate]:
    """The next one to simulate, given what the earlier ones gave."""
    efficiency, done = 1.0, []
    while len(done) < tries:
        best = max(done, key=lambda c: c.samples_per_second, default=None)
        least = best.samples_per_second if best else 0.0
        left = [
            c
            for c in candidates
            if c.most > least
            and all(c is not d and _apart(c, d) >= spacing for d in done)
        ]
        if not left:
            return
        if len(done) % 2 and best is not None:
            chosen = _between(left, done, best)
        else:
            chosen = max(left, key=lambda c: c.predicted(efficiency))
        yield chosen
        done.append(chosen)
        efficiency = _efficiency(max(done, key=lambda c: c.samples_per_second))


def _apart(one: Candidate, other: Candidate) -> int:
    return abs(one.setting.servers - other.setting.servers)


def _between(
    left: list[Candidate], done: list[Candidate], best: Candidate
) -> Candidate:
    """In the middle of the wider gap beside the best one so far."""
    gaps = []
    for side in (-1, 1):

        def beyond(c: Candidate, side: int = side) -> bool:
            return (c.setting.servers - best.setting.servers) * side > 0

        near = min((_apart(d, best) for d in done if beyond(d)), default=None)
        gap = [
            c for c in left if beyond(c) and (near is None or _apart(c, best) < near)
        ]
        gaps.append(sorted(gap, key=lambda c: c.setting.servers))
    wider = max(gaps, key=len)
    return wider[len(wider) // 2] if wider else max(left, key=lambda c: c.most)


def _efficiency(candidate: Candidate) -> float:
    """How far generation stayed behind its bound, if it decided."""
    outcome, bound = candidate.outcome, candidate.bound
    if outcome is None or outcome.trainer_idle < _WAITS:
        return 1.0
    low, high = 0.01, 1.0
    for _ in range(30):  # the bound's seconds fall as efficiency rises
        middle = (low + high) / 2
        if bound.seconds(middle) > outcome.step_seconds:
            low = middle
        else:
            high = middle
    return high


def reason(candidate: Candidate) -> str:
    """Which side is the bottleneck, in words."""
    outcome = candidate.outcome
    if outcome is None:
        return "not simulated"
    setting = outcome.setting
    best = f"{outcome.decode_utilisation:.0%} of their best speed"
    if setting.staleness == 0:
        return (
            f"one side waits for the other: the trainer {outcome.trainer_idle:.0%} of "
            f"the time; the servers generate at {best}"
        )
    waits = f"the trainer waits {outcome.trainer_idle:.0%} of the time"
    works = f"the servers generate at {best}"
    cause, share = max(outcome.held.items(), key=lambda pair: pair[1])
    if outcome.trainer_idle < _WAITS:
        held = share if cause == "bound" else 0.0
        back = f", held back by the bound {held:.0%} of the time" if held > 0.1 else ""
        return f"training is the bottleneck: {waits}; {works}{back}"
    full = outcome.occupancy > _FULL or outcome.decode_utilisation > _FULL
    if full or share < _HELD:
        return f"generation is the bottleneck: {waits}; {works}"
    if cause == "bound":
        return (
            f"the staleness bound is the bottleneck: {waits}; {share:.0%} of it no "
            f"group may start; {works}"
        )
    if cause == "queue":
        return (
            f"the queue of prompts is the bottleneck: {waits}; AReaL fills it only "
            f"meanwhile; {works}"
        )
    return (
        f"generation is the bottleneck: {waits}; {works}, as max_concurrent_rollouts "
        f"leaves {1 - outcome.occupancy:.0%} of their slots free"
    )
