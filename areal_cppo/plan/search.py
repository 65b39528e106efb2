"""Which split of N GPUs between generation and training, and which staleness bound.

For each bound every split has its upper bound on throughput (`areal_cppo.plan.bounds`),
which takes microseconds. Some are simulated: first the one with the highest upper
bound; each simulation then says how far generation stays behind its upper bound, and
the split that is best by that comes next. A split whose upper bound is below what
another one gives is never simulated, nor one closer than 1/64 of the GPUs to another
that was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from areal_cppo.errors import UserError
from areal_cppo.plan.bounds import StepBound, step_bound
from areal_cppo.plan.outcome import Outcome
from areal_cppo.plan.rates import Rates
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate

MOST_GPUS = 16_384  # more would take hours and was never tried

NOT_MODELLED = (
    "what staleness does to learning: samples/s are not progress",
    "a response's pace as its context grows, and memory for it: the decode curve is "
    "taken at a typical length, and the slots must fit",
    "how weight updates, data and rewards slow down with the number of servers: each "
    "update takes the given seconds, networks and disks are never busy",
    "failures, restarts, checkpoints and evaluations",
    "refused responses and rejected groups: every sample is trained on",
    "lengths that depend on the prompt, or change as training goes on",
    "micro-batches and pipeline bubbles: a rank's time is linear in its tokens",
    "a trainer that shares GPUs with servers; where all GPUs take turns, moving models "
    "in and out of memory takes no time",
)

_SPACING = 1 / 64  # of the GPUs
_WAITS = 0.05  # share of the time; a trainer that waits less is the bottleneck
_NEAR = 0.02  # of samples/s; within that the lower bound is recommended


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
        return self.setting.samples / self.bound.seconds

    @property
    def samples_per_second(self) -> float:
        """Simulated."""
        return self.outcome.samples_per_second if self.outcome else 0.0

    def predicted(self, efficiency: float) -> float:
        """Samples/s if generation reaches that share of its upper bound."""
        bound = self.bound
        generation = bound.generation / efficiency
        guess = StepBound(generation, bound.training, bound.update, bound.overlap)
        return self.setting.samples / guess.seconds


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
        """The freshest of those within 2 % of the best."""
        best = self.best
        near = [
            c
            for c in best
            if c.samples_per_second >= (1 - _NEAR) * best[0].samples_per_second
        ]
        return min(near, key=lambda c: c.outcome.mean_staleness, default=None)


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
        setting = _setting(base, servers, ranks, bound)
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
        for chosen in _choose(group, plan.gpus * _SPACING / server, tries):
            chosen.outcome = simulate(rates, chosen.setting)
            done += 1
            note(f"{done}/{total}: {_name(chosen)}: {_figures(chosen)}")
    plan.complete = True
    return plan


def _setting(base: Setting, servers: int, ranks: int, bound: int) -> Setting:
    warmup = bound + 2
    return Setting(
        servers=servers,
        ranks=ranks,
        batch=base.batch,
        group=base.group,
        staleness=bound,
        steps=base.steps + warmup,
        warmup=warmup,
        admission=base.admission,
        concurrent=base.concurrent,
        seed=base.seed,
    )


def _choose(
    candidates: list[Candidate], spacing: float, tries: int
) -> Iterator[Candidate]:
    """The next one to simulate, given what the earlier ones gave."""
    efficiency, done = 1.0, []
    while len(done) < tries:
        best = max((c.samples_per_second for c in done), default=0.0)
        left = [
            c
            for c in candidates
            if c.most > best
            and all(
                c is not other
                and abs(c.setting.servers - other.setting.servers) >= spacing
                for other in done
            )
        ]
        if not left:
            return
        chosen = max(left, key=lambda c: c.predicted(efficiency))
        yield chosen
        done.append(chosen)
        outcome = chosen.outcome
        if outcome is not None and outcome.trainer_idle > _WAITS:
            waited = outcome.step_seconds - chosen.bound.update
            if not chosen.bound.overlap:
                waited -= chosen.bound.training
            if waited > 0:
                efficiency = min(1.0, chosen.bound.generation / waited)


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
    if outcome.trainer_idle < _WAITS:
        held = f", held back by the bound {outcome.held:.0%} of the time"
        return (
            f"training is the bottleneck: the trainer waits {outcome.trainer_idle:.0%} "
            f"of the time; the servers have room{held if outcome.held > 0.1 else ''}"
        )
    waits = f"the trainer waits {outcome.trainer_idle:.0%} of the time"
    if outcome.held > 0.5:
        return (
            f"the staleness bound is the bottleneck: {waits}, and {outcome.held:.0%} "
            f"of it no group may start; the servers generate at {best}"
        )
    if outcome.occupancy > 0.9 or outcome.decode_utilisation > 0.9:
        return f"generation is the bottleneck: {waits}, the servers are full"
    return (
        f"generation is the bottleneck: {waits}, the servers generate at {best}, "
        f"{outcome.occupancy:.0%} of their slots taken"
    )


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
