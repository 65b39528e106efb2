"""Which split of N GPUs between generation and training, and which staleness bound.

For each bound every split has its upper bound on throughput (`areal_cppo.plan.bounds`),
which takes microseconds; `areal_cppo.plan.candidates` says which ones are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from areal_cppo.errors import UserError
from areal_cppo.plan.bounds import step_bound
from areal_cppo.plan.candidates import Candidate, choose
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
_NEAR = 0.02  # of samples/s; within that the lower bound is recommended


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
        for chosen in choose(group, plan.gpus * _SPACING / server, tries):
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
