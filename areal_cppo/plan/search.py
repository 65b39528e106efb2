"""Which split of N GPUs between generation and training, and which staleness bound.

For each bound every split has its upper bound on throughput (`areal_cppo.plan.bounds`),
which takes microseconds. The first one simulated is the one where that is highest. Then
in turn comes the middle of the wider gap beside the best one so far, and the one that
would be best if generation stayed as far behind its upper bound everywhere as it did
there. A split whose upper bound is below what another one gives is never simulated, nor
one closer than a given number of servers to another that was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from areal_cppo.errors import UserError
from areal_cppo.plan.bounds import StepBound, step_bound
from areal_cppo.plan.outcome import Outcome
from areal_cppo.plan.rates import Rates
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate

MOST_GPUS = 16_384  # more would take hours and was never tried

_WARMUP = 2  # steps, besides the bound
_SPACING = 1 / 64  # of the GPUs
_NEAR = 0.02  # of samples/s; within that the lower bound is recommended
TRAINER_WAITS = 0.05  # share of the time; if it waits less it is the bottleneck


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


@dataclass
class Plan:
    """What a search has found so far.

    Attributes
    ----------
    gpus
        In all.
    candidates
        All splits and bounds, simulated or not.
    turns
        All GPUs generate, then all train: the synchronous baseline.
    complete
        Whether the search has come to its end.
    """

    gpus: int
    candidates: list[Candidate] = field(default_factory=list)
    turns: Candidate | None = None
    complete: bool = False

    @property
    def best(self) -> list[Candidate]:
        """Those simulated, best first."""
        simulated = [c for c in self.candidates if c.outcome]
        return sorted(simulated, key=lambda c: -c.samples_per_second)

    @property
    def recommended(self) -> Candidate | None:
        """Within 2 % of the best: the lowest bound, and of that the best."""
        best = self.best
        near = [
            c
            for c in best
            if c.samples_per_second >= (1 - _NEAR) * best[0].samples_per_second
        ]
        return min(
            near,
            key=lambda c: (c.setting.staleness, -c.samples_per_second),
            default=None,
        )


def splits(rates: Rates, gpus: int, samples: int) -> list[tuple[int, int]]:
    """Servers and ranks: for each number of ranks as many servers as there is room
    for, and no two with equally many servers.

    Raises
    ------
    UserError
        There are too few GPUs for a server and a rank.
    """
    server, rank = rates.server.gpus, rates.trainer.gpus
    if not server + rank <= gpus <= MOST_GPUS:
        raise UserError(
            f"--gpus: expected {server + rank} ({server} for a server, {rank} for a "
            f"rank of the trainer) to {MOST_GPUS}, found {gpus}; correct it"
        )
    most = min((gpus - server) // rank, samples)
    by_servers = {(gpus - n * rank) // server: n for n in range(1, most + 1)}
    return list(by_servers.items())


def search(
    rates: Rates,
    plan: Plan,
    base: Setting,
    bounds: Sequence[int],
    tries: int = 8,
    note: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Fill `plan`, which keeps what is there if the search is interrupted.

    Parameters
    ----------
    rates
        How fast everything is.
    plan
        Of so many GPUs.
    base
        A setting; servers, ranks, bound, warm-up are replaced. Its `steps` are those
        that count: each simulation has bound + 2 steps of warm-up before.
    bounds
        Staleness bounds to try.
    tries
        Simulations for each of them, at most.
    note
        Called with a line of progress after each simulation.
    """
    pairs = splits(rates, plan.gpus, base.samples)
    total = len(bounds) * min(tries, len(pairs)) + 1

    def candidate(servers: int, ranks: int, bound: int) -> Candidate:
        setting = replace(
            base,
            servers=servers,
            ranks=ranks,
            staleness=bound,
            steps=base.steps + bound + _WARMUP,
            warmup=bound + _WARMUP,
        )
        return Candidate(setting, step_bound(rates, setting))

    groups = [[candidate(*pair, bound) for pair in pairs] for bound in bounds]
    plan.candidates.extend(c for group in groups for c in group)
    server, rank = rates.server.gpus, rates.trainer.gpus
    turns = candidate(
        plan.gpus // server, min(plan.gpus // rank, base.samples), bound=0
    )
    turns.outcome = simulate(rates, turns.setting)
    plan.turns = turns
    done = 1
    note(f"{done}/{total}: all GPUs take turns: {_figures(turns)}")
    for group in groups:
        for chosen in choose(group, plan.gpus * _SPACING / server, tries):
            chosen.outcome = simulate(rates, chosen.setting)
            done += 1
            note(f"{done}/{total}: {_name(chosen)}: {_figures(chosen)}")
    plan.complete = True
    return plan


def _name(candidate: Candidate) -> str:
    setting = candidate.setting
    return (
        f"bound {setting.staleness}, {setting.servers} servers and {setting.ranks} "
        "ranks"
    )


def _figures(candidate: Candidate) -> str:
    outcome = candidate.outcome
    return (
        f"{outcome.samples_per_second:.3g} samples/s, trainer idle "
        f"{outcome.trainer_idle:.0%}"
    )


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
    if outcome is None or outcome.trainer_idle < TRAINER_WAITS:
        return 1.0
    low, high = 0.01, 1.0
    for _ in range(30):  # the bound's seconds fall as efficiency rises
        middle = (low + high) / 2
        if bound.seconds(middle) > outcome.step_seconds:
            low = middle
        else:
            high = middle
    return high
