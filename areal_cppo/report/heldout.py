"""Held-out accuracy: before, during and after training, and the change."""

from dataclasses import dataclass
from typing import Any

from areal_cppo.report.confidence import (
    paired_difference_interval,
    unpaired_difference_interval,
    wilson_interval,
)
from areal_cppo.report.page import number
from areal_cppo.report.runs import RunContents, is_number


@dataclass(frozen=True)
class HeldOut:
    """One evaluation: `right` and `n` are `None` where only the share is known.

    `outcomes` has a character a problem: 1 right, 0 wrong, - not answered.
    """

    step: int
    accuracy: float
    n: int | None = None
    outcomes: str | None = None

    @property
    def right(self) -> int | None:
        """How many of the `n` images were answered correctly."""
        return None if self.n is None else round(self.accuracy * self.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval."""
        return None if self.n is None else wilson_interval(self.right, self.n)

    @property
    def words(self) -> str:
        """The picture of it, for those who cannot see it."""
        said = f"step {self.step}: {number(self.accuracy, 'share')}"
        if self.interval:
            low, high = (number(end, "share") for end in self.interval)
            said += f", 95 % interval {low} to {high}"
        return said


@dataclass(frozen=True)
class Change:
    """The change between two evaluations, as a share, and how it was compared."""

    before: HeldOut
    after: HeldOut
    interval: tuple[float, float] | None
    paired: bool

    @property
    def points(self) -> float:
        """The change in percentage points; if paired, on what both have answered."""
        if self.paired:
            gained, lost, n = _counts(self.before, self.after)
            return 100 * (gained - lost) / n
        return 100 * (self.after.accuracy - self.before.accuracy)

    @property
    def images(self) -> str:
        """On how many it was measured, in words; empty where that is not known."""
        before, after = self.before.n, self.after.n
        if self.paired:
            before = after = _counts(self.before, self.after)[2]
        if after and before == after:
            return f", on {after} images"
        return f", on {before} and {after} images" if after and before else ""

    @property
    def method(self) -> str:
        """How its interval was found."""
        if self.interval is None:
            return "No interval: the number of images is not recorded."
        if self.paired:
            return "Paired: image by image, the same ones before and after."
        return (
            "Unpaired: results image by image are not recorded, so on the same images "
            "this interval is usually wider than it need be."
        )


def heldout_points(run: RunContents) -> list[HeldOut]:
    """Every held-out evaluation in order of step, from whichever file has it."""
    points: dict[int, HeldOut] = {}
    summary = {} if run.evaluations else run.summary
    for step, key in ((0, "accuracy_before"), (summary.get("steps"), "accuracy_after")):
        if is_number(step) and is_share(summary.get(key)):
            points[step] = HeldOut(step, summary[key], _count(summary, "accuracy_n"))
    for record in run.evaluations:
        if not is_share(record.get("accuracy")):
            continue
        outcomes = record.get("correct")
        usable = isinstance(outcomes, str) and outcomes and set(outcomes) <= set("01-")
        points[record["step"]] = HeldOut(
            record["step"],
            record["accuracy"],
            _count(record, "n")
            or (len(outcomes.replace("-", "")) or None if usable else None),
            outcomes if usable else None,
        )
    return [points[step] for step in sorted(points)]


def is_share(value: Any) -> bool:
    """Whether a JSON value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def accuracy_change(points: list[HeldOut]) -> Change | None:
    """From the first evaluation to the last; `None` with fewer than two."""
    if len(points) < 2:
        return None
    before, after = points[0], points[-1]
    counts = _counts(before, after)
    if counts:
        return Change(before, after, paired_difference_interval(*counts), paired=True)
    if before.n is None or after.n is None:
        return Change(before, after, None, paired=False)
    interval = unpaired_difference_interval(
        before.right, before.n, after.right, after.n
    )
    return Change(before, after, interval, paired=False)


def best_point(points: list[HeldOut]) -> HeldOut | None:
    """That of the highest accuracy after training began; the earliest of equals."""
    trained = [point for point in points if point.step]
    return max(trained, key=lambda p: (p.accuracy, -p.step), default=None)


def _counts(before: HeldOut, after: HeldOut) -> tuple[int, int, int] | None:
    """Gained, lost and all of the problems answered both times; `None` where it isn't
    known problem by problem."""
    one, two = before.outcomes or "", after.outcomes or ""
    if len(one) != len(two):
        return None
    pairs = [pair for pair in zip(one, two, strict=True) if "-" not in pair]
    gained, lost = pairs.count(("0", "1")), pairs.count(("1", "0"))
    return (gained, lost, len(pairs)) if pairs else None


def _count(record: dict, key: str) -> int | None:
    value = record.get(key)
    return int(value) if is_number(value) and value >= 1 else None
