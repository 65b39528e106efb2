"""The top of the report: what was run, and what came of it, in words.

Its first box, held-out accuracy, has its numbers from `heldout.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.report.page import duration, number
from areal_cppo.report.runs import RunContents, is_number
from areal_cppo.report.timeline import overlap_share


class Fact(NamedTuple):
    """A key figure and what it means."""

    label: str
    value: str
    words: str


def run_title(run: RunContents) -> str:
    """The objective in words."""
    objective = run.objective
    if objective is None:
        kind = "with" if run.has_cpl else "without"
        return f"Training run {kind} the Contrastive Perception Loss"
    known = OBJECTIVES.get(objective)
    return known.title if known else str(objective)


def run_size(run: RunContents) -> str:
    """Seed, steps, time and responses, in a line."""
    parts = [
        "Seed not recorded" if run.seed is None else f"Seed {number(run.seed)}",
        _steps(run),
        duration(run.seconds),
    ]
    responses = run.last("samples")
    if is_number(responses):
        parts.append(f"{number(responses)} responses trained on")
    return " · ".join(parts)


def _steps(run: RunContents) -> str:
    done = run.figure("steps", "step") or 0
    planned = run.config.get("total_train_steps")
    of = f" of {number(planned)}" if is_number(planned) and planned > done else ""
    return f"{number(done)}{of} training step{'' if done == 1 and not of else 's'}"


def facts(run: RunContents) -> Iterator[Fact]:
    """The key figures beside held-out accuracy."""
    yield _overlap(run)
    yield _staleness(run)
    yield _refused(run)
    yield _rate(run)


def _overlap(run: RunContents) -> Fact:
    share = run.summary.get("overlap_share")
    if not is_number(share) and run.timeline and run.seconds > 0:
        share = overlap_share(
            run.timeline.generation, run.timeline.training, (0.0, run.seconds)
        )
    if not is_number(share):
        return Fact("Overlap", "Not recorded", "No time line of this run.")
    words = "of the training wall time, generation and training were both busy"
    return Fact("Overlap", number(share, "share"), words)


def _staleness(run: RunContents) -> Fact:
    mean = run.summary.get("mean_staleness")
    if mean is None:
        values = run.series("staleness_mean")[1]
        mean = sum(values) / len(values) if values else None
    largest = run.summary.get("max_staleness")
    if largest is None:
        largest = max(run.series("staleness_max")[1], default=None)
    if not is_number(mean):
        return Fact("Staleness", "Not recorded", "No staleness metrics.")
    words = "policy versions behind, mean of the tokens trained on"
    if is_number(largest):
        words += f"; at most {number(largest)}"
    return Fact("Staleness", f"{mean:.2f}", words)


def _refused(run: RunContents) -> Fact:
    refused = run.figure("refused")
    if not isinstance(refused, dict):
        return Fact("Refused responses", "Not recorded", "No counts of refusals.")
    counts = {reason: n for reason, n in refused.items() if is_number(n)}
    dropped, equal = (counts.pop(f"group_{why}", 0) for why in ("dropped", "all_equal"))
    total, used = sum(counts.values()), run.last("samples")
    words = ", ".join(f"{reason} {number(n)}" for reason, n in counts.items() if n)
    if total and is_number(used):
        share = number(total / (total + used), "share")
        words = f"{share} of these and those trained on: {words}"
    if dropped:
        words += f"; {number(dropped)} group{'' if dropped == 1 else 's'} dropped"
    if equal:
        words += f"; {number(equal)} of equal rewards dropped"
    words = words.removeprefix("; ") or "every response was fit to train on"
    return Fact("Refused responses", number(total), words)


def _rate(run: RunContents) -> Fact:
    rates = run.series("tokens_per_second")[1]
    if not rates:
        return Fact("Generation rate", "Not recorded", "No rates in the metrics.")
    words = "response tokens per second, mean of the steps"
    idle = run.series("trainer_idle_share")[1]
    if idle:
        share = number(sum(idle) / len(idle), "share")
        words += f"; the trainer waited {share} of a step for responses"
    return Fact("Generation rate", number(round(sum(rates) / len(rates))), words)


def gaps(run: RunContents) -> list[str]:
    """What the report lacks."""
    known = OBJECTIVES.get(run.objective)
    expected = known is None or known.settings == "cpl"
    if run.metrics and not run.has_cpl and expected:
        return [
            *run.notes,
            "No metric of the Contrastive Perception Loss is recorded.",
        ]
    return run.notes
