"""The nine steps of the check, in their order: cheap and decisive first; and a tenth,
which takes as long as all of them and has to be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.errors import UserError


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes
    ----------
    number, name
        As the user gives it, and as its file is called.
    module
        In this package; its `run(setting, findings)` does the work.
    most
        Seconds after which it counts as hung: several times what it should take.
    asked
        Whether it has to be asked for.
    """

    number: int
    name: str
    module: str
    most: int
    asked: bool = False


STEPS = (
    Step(1, "environment", "environment", 120),
    Step(2, "attention", "attention", 150),
    Step(3, "times", "times", 120),
    Step(4, "actor", "actor", 300),
    Step(5, "views", "views", 150),
    Step(6, "head", "head", 150),
    Step(7, "bench", "bench", 450),
    Step(8, "profile", "profiling", 240),
    Step(9, "hand-over", "hand_over", 120),
    Step(10, "learning", "learning", 720, asked=True),
)


def choose(listed: str | None, first: int | None = None) -> list[Step]:
    """The steps of a list such as `1,4-6` (by default all that need not be asked for),
    from `first` on.

    Raises
    ------
    UserError
        Not a list of such numbers, or nothing is left.
    """
    usual = {step.number for step in STEPS if not step.asked}
    wanted = usual if listed is None else _numbers(listed)
    steps = [s for s in STEPS if s.number in wanted and s.number >= (first or 1)]
    if not steps:
        raise UserError(
            f"--from: expected a step of those to run, found {first}; give a number up "
            f"to {max(wanted)}"
        )
    return steps


def _numbers(listed: str) -> set[int]:
    known = {step.number for step in STEPS}
    numbers: set[int] = set()
    for part in listed.split(","):
        low, dash, high = part.strip().partition("-")
        ends = (low, high) if dash else (low, low)
        if not all(end.strip().isdecimal() for end in ends):
            ends = ("0", "0")
        span = range(int(ends[0]), int(ends[1]) + 1)
        if not span or not known >= set(span):
            raise UserError(
                f"--steps: expected numbers from 1 to {len(STEPS)}, as 1,2 or 4-6, "
                f"found {listed!r}; give such a list"
            )
        numbers |= set(span)
    return numbers
