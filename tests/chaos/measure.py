"""What a fault cost: from the files that the run wrote, and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.stack import PROBLEMS, Stack

# Prompts that were under way when a run ended wait for a step that never came: in the
# last two epochs of the ledger a prompt may be missing without having been lost.
_OPEN_EPOCHS = 2


@dataclass
class Record:
    """One fault and what became of the run."""

    kind: str
    what: str  # was done, with its numbers
    at_step: int  # the last step finished before it
    seconds_to_recover: float | None = None  # to the next step finished
    seconds_server_back: float | None = None  # to all servers there again
    steps_lost: int | None = None  # finished ones that had to be done again
    exit_status: int | None = None  # of the command, where the fault ended it
    # At the end of the run in which the fault was:
    trained_twice: int | None = None
    never_trained: int | None = None
    metrics_whole: bool | None = None  # no gap, no repeat, no line changed
    orphans: int | None = None
    final_status: int | None = None
    note: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


class Progress:
    """Finished steps as they are seen, and whether what was written ever changed."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.seen: dict[int, float] = {}  # step -> when it was finished
        self.best = 0  # since the last resumption

    def look(self) -> int:
        """The last finished step now."""
        lines = self.stack.lines("metrics.jsonl")
        self.seen |= {line["step"]: line["time"] for line in lines}
        last = lines[-1]["step"] if lines else 0
        self.best = max(self.best, last)
        return last

    def first_after(self, moment: float) -> float | None:
        """When the first step after a moment was finished; None: none was yet."""
        self.look()
        return min((t for t in self.seen.values() if t > moment), default=None)

    def resumed(self, moment: float) -> int | None:
        """After which step the run went on, if it was started again; 0: anew."""
        if not self.stack.events("run_started", since=moment):
            return None
        events = self.stack.events("resumed", since=moment)
        if events:
            return events[-1]["step"]
        return 0 if self.stack.events("training", since=moment) else None


def ledger_errors(stack: Stack, unusable: Collection[int] = ()) -> tuple[int, int]:
    """Prompts trained twice, and never, by the ledger.

    `unusable` are indices that can't be trained on, and so are not missed.
    """
    lines = stack.lines("ledger.jsonl")
    counts = Counter(
        (epoch, index) for line in lines for epoch, index in line["prompts"]
    )
    twice = sum(count - 1 for count in counts.values())
    closed = max((epoch for epoch, _ in counts), default=0) - _OPEN_EPOCHS + 1
    never = sum(
        (epoch, index) not in counts
        for epoch in range(max(0, closed))
        for index in range(PROBLEMS)
        if index not in unusable
    )
    return twice, never


def metrics_errors(stack: Stack) -> list[str]:
    """Gaps and repeats in metrics.jsonl, and where the ledger disagrees with it."""
    steps = [line["step"] for line in stack.lines("metrics.jsonl")]
    trained = [line["step"] for line in stack.lines("ledger.jsonl")]
    errors = []
    if steps != list(range(1, len(steps) + 1)):
        errors.append(f"metrics.jsonl has steps {_short(steps)}")
    if trained != steps:
        errors.append(f"ledger.jsonl has steps {_short(trained)}")
    return errors


def _short(steps: list[int]) -> str:
    return f"{steps[:3]}...{steps[-3:]} ({len(steps)})"


def close(
    stack: Stack,
    records: list[Record],
    status: int,
    wanted: int,
    unusable: Collection[int] = (),
) -> None:
    """Write into the records of a run what shows only at its end."""
    twice, never = ledger_errors(stack, unusable)
    errors = metrics_errors(stack)
    left = stack.orphans()
    problems = list(errors)
    if twice or never:
        problems.append(f"{twice} prompts trained twice, {never} never")
    if left:
        problems.append(f"left behind: {left[:3]}")
    if status != wanted:
        problems.append(f"the run ended with {status}: {stack.last_words()}")
    for record in records:
        record.trained_twice, record.never_trained = twice, never
        record.metrics_whole = not errors
        record.orphans = max(len(left), record.orphans or 0)
        record.final_status = status
        record.problems += problems
