"""A study's results in one object and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from areal_cppo.studies.contrast import MEASURES as CONTRAST
from areal_cppo.studies.detection_summary import aligned
from areal_cppo.studies.spec import Study
from areal_cppo.studies.statistics import Interval, mean_interval, paired_difference
from areal_cppo.studies.task import NO_SHIFT

Line = dict[str, Any]

COMPARED = ("accuracy", "accuracy_sampled")  # with the reference arms
AVERAGED = (
    *COMPARED,
    "values_read",
    "correct_by_luck",
    "selection_precision",
    "selection_recall",
    "selection_tokens",
    "gain_auc",
    "gain_average_precision",
    "gain_precision_at_recall",
    "entropy",
    "reading_entropy",
    "reading_negative_divergence",
    "reading_positive_divergence",
    "template_negative_divergence",
    *CONTRAST,
    "seconds",
    "cpu_seconds",
)


def summarise(study: Study, lines: Sequence[Line]) -> dict[str, Any]:
    """Means over seeds at the last step, and differences to the reference arms.

    Parameters
    ----------
    study
        Its arms and references.
    lines
        Those of `results.jsonl`; arms without any are left out.

    Returns
    -------
    dict
        `tasks`: by task and shift a list of arms, each with `means` (name to
        `Interval`) and `differences` (reference to name to `Interval`).
    """
    last = [line for line in lines if line["step"] == study.steps]
    tasks: dict[str, Any] = {}
    for task in study.tasks:
        for shift in (NO_SHIFT, *study.evaluate.shifts):
            here = [x for x in last if x["task"] == task and x["shift"] == shift]
            arms = [_arm(study, arm, here) for arm in study.arms]
            tasks.setdefault(task, {})[shift] = [arm for arm in arms if arm]
    return {
        "study": study.name,
        "steps": study.steps,
        "seeds": study.seeds,
        "references": study.references,
        "tasks": tasks,
    }


def _arm(study: Study, arm: str, lines: list[Line]) -> dict[str, Any] | None:
    own = [line for line in lines if line["arm"] == arm]
    if not own:
        return None
    means = {}
    for name in AVERAGED:
        values = list(by_seed(own, name).values())
        if values:
            means[name] = asdict(mean_interval(values))
    differences: dict[str, Any] = {}
    for reference in study.references:
        if reference == arm:
            continue
        theirs = [line for line in lines if line["arm"] == reference]
        for name in COMPARED:
            found = paired_difference(by_seed(own, name), by_seed(theirs, name))
            if found is not None:
                differences.setdefault(reference, {})[name] = asdict(found)
    return {
        "arm": arm,
        "seeds": sorted(line["seed"] for line in own),
        "samples": own[0]["samples"],
        "n": own[0]["n"],
        "means": means,
        "differences": differences,
    }


def by_seed(lines: Iterable[Line], name: str) -> dict[int, float]:
    """A value by seed; lines without it are left out."""
    return {x["seed"]: x[name] for x in lines if x.get(name) is not None}


def table(summary: dict[str, Any]) -> str:
    """The summary for a terminal: a block per task and shift."""
    blocks = []
    for task, shifts in summary["tasks"].items():
        for shift, arms in shifts.items():
            if arms:
                blocks.append(_block(summary, task, shift, arms))
    return "\n\n".join(blocks)


def _block(summary, task: str, shift: str, arms: list[dict[str, Any]]) -> str:
    references = summary["references"]
    head = ["arm", "seeds", "greedy", "sampled"]
    head += [f"- {reference}" for reference in references]
    head += ["precision", "recall", "AP", "tokens", "s"]
    rows = [head]
    for arm in arms:
        means = {name: Interval(**value) for name, value in arm["means"].items()}
        row = [arm["arm"], str(len(arm["seeds"]))]
        row += [_share(means["accuracy"]), _share(means["accuracy_sampled"])]
        for reference in references:
            found = arm["differences"].get(reference)
            row.append(_difference(found["accuracy"]) if found else "")
        for name in ("selection_precision", "selection_recall"):
            row.append(_plain(means, name, ".2f"))
        row.append(_plain(means, "gain_average_precision", ".2f"))
        row.append(_plain(means, "selection_tokens", ".1f"))
        row.append(_plain(means, "seconds", ".0f"))
        rows.append(row)
    title = f"{task}, {summary['steps']} steps, {arms[0]['samples']} samples"
    if shift != NO_SHIFT:
        title += f", shift {shift}"
    return aligned(title, rows)


LEGEND = (
    "greedy, sampled: held-out accuracy, mean over seeds +- half of its 95 % interval; "
    "- ARM: greedy accuracy less that of ARM, seed by seed, with its 95 % interval "
    "(* excludes zero); precision, recall, tokens a response: of the selection; AP: of "
    "the entropy gain; s: seconds of training."
)


def _share(value: Interval) -> str:
    if value.low is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} +- {value.high - value.mean:.3f}"


def _difference(record: dict[str, Any]) -> str:
    value = Interval(**record)
    if value.low is None:
        return f"{value.mean:+.3f}"
    star = "*" if value.excludes_zero else " "
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]{star}"


def _plain(means: dict[str, Interval], name: str, form: str) -> str:
    return format(means[name].mean, form) if name in means else ""
