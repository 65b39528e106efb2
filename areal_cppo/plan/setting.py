"""One setting to simulate, or that of a run: servers, ranks, batch, bound, steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

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
        whole = (("servers", 1), ("ranks", 1), ("batch", 1), ("group", 1))
        whole += (("staleness", 0), ("steps", 1), ("warmup", 0))
        if self.concurrent is not None:
            whole += (("concurrent", 1),)
        for name, least in whole:
            value = getattr(self, name)
            right = isinstance(value, int) and not isinstance(value, bool)
            _check(right and value >= least, name, f"a whole number >= {least}", value)
        _check(
            self.warmup < self.steps,
            "warmup",
            f"fewer steps than all {self.steps}",
            self.warmup,
            "simulate more steps",
        )
        _check(
            self.admission in ADMISSIONS,
            "admission",
            f"one of {', '.join(ADMISSIONS)}",
            repr(self.admission),
        )
        for server, speed in self.speeds.items():
            known = f"servers 0 to {self.servers - 1}"
            _check(0 <= server < self.servers, "speeds", known, server)
            _check(speed > 0, "speeds", "a speed > 0", f"{speed:g}")
        refill = self.refill_seconds
        _check(refill > 0, "refill_seconds", "a number > 0", f"{refill:g}")

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


def _check(
    right: bool, field: str, expected: str, found: object, mend: str = "correct it"
) -> None:
    if not right:
        raise UserError(f"{field}: expected {expected}, found {found}; {mend}")


@dataclass(frozen=True)
class RunSetting:
    """What a plan takes over from a run, and what can be compared with it.

    Attributes
    ----------
    batch, group
        Prompts a train step, responses a prompt.
    staleness
        `max_head_offpolicyness`.
    concurrent
        `max_concurrent_rollouts`, which is a batch where it is not given.
    servers, ranks
        Generation servers, and data-parallel ranks of the trainer.
    """

    batch: int
    group: int
    staleness: int
    concurrent: int
    servers: int
    ranks: int

    def simulated(self, steps: int, warmup: int, **changes: Any) -> Setting:
        """The run as a setting to simulate, to compare the two; `changes` as in
        `Setting`."""
        return Setting(**asdict(self) | {"steps": steps, "warmup": warmup} | changes)


def run_setting(config: dict[str, Any], folder: str | Path) -> RunSetting:
    """From `config.yaml` of a run's folder.

    Raises
    ------
    UserError
        It is not what a run has there.
    """
    try:
        rollout = config["rollout"]
        batch = int(config["train_dataset"]["batch_size"])
        return RunSetting(
            batch=batch,
            group=int(config["gconfig"]["n_samples"]),
            staleness=int(rollout["max_head_offpolicyness"]),
            concurrent=int(rollout.get("max_concurrent_rollouts") or batch),
            servers=_copies(rollout["backend"]),
            ranks=_copies(config["actor"]["backend"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--run: expected config.yaml of a run in {folder} with rollout, actor, "
            f"train_dataset and gconfig, found it without ({error}); name another "
            "run, or give --rates"
        ) from error


def _copies(backend: str) -> int:
    """Data-parallel size in AReaL's `fsdp:d4p1t2`."""
    found = re.search(r"d(\d+)", backend.partition(":")[2])
    return int(found[1]) if found else 1
