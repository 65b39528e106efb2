"""A study's results: means over seeds, paired differences, tables.

Seeds differ in problems, sampling and views; all arms of a seed share them, and all
runs share the held-out problems. So an arm is compared with another seed by seed, and
the interval is that of the mean of the differences (Student's t, n - 1 degrees of
freedom, 95 %). It says how well the seeds that there are tell what other seeds would
give, for these held-out problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from areal_cppo.report.table import table as aligned
from areal_cppo.studies.intervals import Interval, mean_interval, paired_difference
from areal_cppo.studies.spec import NO_SHIFT, Study

Line = dict[str, Any]

ALL = "all tasks"  # the mean over them
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
    "contrast_weight",
    "contrast_misread",
    "contrast_push",
    "positive_misreads",
    "negative_reads",
    "gradient_variance",
    "gradient_square",
    "seconds",
    "cpu_seconds",
)
DETECTED = (
    "auc",
    "average_precision",
    "precision_at_recall",
    "precision",
    "recall",
    "tokens",
)
_KEYS = ["task", "arm", "step", "view", "score"]  # of a record of detection
_BY_VIEW = {"entropy_gain": "gain", "entropy_rise": "rise", "divergence": "KL"}

LEGEND = (
    "greedy, sampled: held-out accuracy, mean over seeds +- half of its 95 % interval; "
    "- ARM: greedy accuracy less that of ARM, seed by seed, with its 95 % interval "
    "(* excludes zero); precision, recall, tokens a response: of the selection; AP: of "
    "the entropy gain; s: seconds of training."
)


def means(lines: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Of each column an `Interval` as a dict; lines without a value are left out, and
    so are columns without any."""
    found = {name: lines[name].dropna() for name in names if name in lines}
    return {
        name: asdict(mean_interval(values))
        for name, values in found.items()
        if len(values)
    }


def summarise(study: Study, lines: Sequence[Line]) -> dict[str, Any]:
    """Means over seeds at the last step, and differences to the reference arms.

    Parameters
    ----------
    study
        Its arms and references.
    lines
        Those of `results.jsonl`, at least one; arms without any are left out.

    Returns
    -------
    dict
        `tasks`: by task (of several also by their mean, seed by seed) and shift, and
        by mean over shifts, a list of arms, each with `means` (name to `Interval`) and
        `differences` (reference to name to `Interval`).
    """
    last = pd.DataFrame(lines).query("step == @study.steps")
    means_of = study.evaluate.means.items()
    last = pd.concat([last, *(over(last, "shift", *x) for x in means_of)])
    shown = list(study.tasks)
    if len(shown) > 1:
        last = pd.concat([last, over(last, "task", ALL, study.tasks)])
        shown.append(ALL)
    last = last.set_index("seed")
    tasks: dict[str, Any] = {}
    for task in shown:
        for shift in (NO_SHIFT, *study.evaluate.shifts, *study.evaluate.means):
            here = last.query("task == @task and shift == @shift")
            by_arm = dict(iter(here.groupby("arm")))
            tasks.setdefault(task, {})[shift] = [
                _arm(arm, by_arm, study.references)
                for arm in study.arms
                if arm in by_arm
            ]
    return {
        "study": study.name,
        "steps": study.steps,
        "seeds": study.seeds,
        "references": study.references,
        "tasks": tasks,
    }


def over(
    lines: pd.DataFrame, column: str, label: str, values: Sequence[str]
) -> pd.DataFrame:
    """Means of what arms are compared by over tasks or shifts, seed by seed.

    Parameters
    ----------
    lines
        Of one step.
    column, values
        `task` or `shift`, and over which of them; who lacks one is left out.
    label
        What stands in the column's place.
    """
    keys = [key for key in ("task", "shift", "arm", "seed") if key != column]
    groups = lines[lines[column].isin(values)].groupby(keys, as_index=False)
    found = groups.agg(
        {name: "mean" for name in (*COMPARED, "seconds", "cpu_seconds")}
        | {name: "first" for name in ("samples", "n")}
    )
    whole = groups[column].nunique()[column] == len(values)
    return found[whole].assign(**{column: label})


def _arm(
    arm: str, by_arm: Mapping[str, pd.DataFrame], references: Sequence[str]
) -> dict[str, Any]:
    own = by_arm[arm]
    differences: dict[str, Any] = {}
    for reference in references:
        if reference == arm or reference not in by_arm:
            continue
        for name in COMPARED:
            found = paired_difference(own[name], by_arm[reference][name])
            if found is not None:
                differences.setdefault(reference, {})[name] = asdict(found)
    return {
        "arm": arm,
        "seeds": sorted(own.index.tolist()),
        "samples": int(own["samples"].iloc[0]),
        "n": int(own["n"].iloc[0]),
        "means": means(own, AVERAGED),
        "differences": differences,
    }


def summarise_detection(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A record per task, arm, step, view and score: means over seeds, with intervals.

    Means leave out seeds for which a measure does not exist.
    """
    if not lines:
        return []
    groups = pd.DataFrame(lines).groupby(_KEYS, sort=False)
    return [
        {**dict(zip(_KEYS, key)), "step": int(key[2]), "means": means(own, DETECTED)}
        for key, own in groups
    ]


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
    for reference in references:
        head += [f"- {reference}", ""]
    head += ["precision", "recall", "AP", "tokens", "s"]
    rows = []
    for arm in arms:
        values = {name: Interval(**value) for name, value in arm["means"].items()}
        row = [arm["arm"], str(len(arm["seeds"]))]
        row += [_share(values["accuracy"]), _share(values["accuracy_sampled"])]
        for reference in references:
            found = arm["differences"].get(reference)
            row += _difference(found["accuracy"]) if found else ("", "")
        for name in ("selection_precision", "selection_recall"):
            row.append(_plain(values, name, ".2f"))
        row.append(_plain(values, "gain_average_precision", ".2f"))
        row.append(_plain(values, "selection_tokens", ".1f"))
        row.append(_plain(values, "seconds", ".0f"))
        rows.append(row)
    title = f"{task}, {summary['steps']} steps, {arms[0]['samples']} samples"
    if shift != NO_SHIFT:
        title += f", shift {shift}"
    return aligned(head, rows, title=title, words=1)


def _share(value: Interval) -> str:
    if value.low is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} +- {value.high - value.mean:.3f}"


def _difference(record: dict[str, Any]) -> tuple[str, str]:
    """The difference, and a mark where its interval excludes zero."""
    value = Interval(**record)
    if value.low is None:
        return f"{value.mean:+.3f}", ""
    interval = f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
    return interval, "*" if value.excludes_zero else ""


def _plain(values: dict[str, Interval], name: str, form: str) -> str:
    return format(values[name].mean, form) if name in values else ""


def detection_table(records: Sequence[dict[str, Any]]) -> str:
    """For a terminal: at each arm's last step the scores under its own views, and the
    best-known scores under each view."""
    blocks = []
    for task, arm in dict.fromkeys((r["task"], r["arm"]) for r in records):
        own = [r for r in records if (r["task"], r["arm"]) == (task, arm)]
        last = max(record["step"] for record in own)
        at_last = [record for record in own if record["step"] == last]
        blocks.append(_by_score(f"{task}, {arm}, step {last}, own views", at_last))
        blocks.append(_by_view(f"{task}, {arm}, step {last}, by view", at_last))
    return "\n\n".join(blocks)


def _by_score(title: str, records: Sequence[dict[str, Any]]) -> str:
    head = ["score", "AUC", "AP", "P at R .7", "precision", "recall", "tokens"]
    rows = [
        [record["score"], *(_mean(record["means"], name) for name in DETECTED)]
        for record in records
        if record["view"] == "own"
    ]
    return aligned(head, rows, title=title, words=1)


def _by_view(title: str, records: Sequence[dict[str, Any]]) -> str:
    names = _BY_VIEW.values()
    head = ["view", *(f"{kind} {name}" for name in names for kind in ("AUC", "AP"))]
    head += ["precision", "recall", "tokens"]
    found = {(record["view"], record["score"]): record["means"] for record in records}
    rows = []
    for view in dict.fromkeys(record["view"] for record in records):
        row = [view]
        for score in _BY_VIEW:
            row += [_mean(found[view, score], x) for x in DETECTED[:2]]
        row += [_mean(found[view, "selection"], name) for name in DETECTED[3:]]
        rows.append(row)
    return aligned(head, rows, title=title, words=1)


def _mean(means: dict[str, Any], name: str) -> str:
    if name not in means:
        return ""
    return format(means[name]["mean"], ".1f" if name == "tokens" else ".2f")
