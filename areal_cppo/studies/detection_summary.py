"""What `detection.jsonl` says, averaged over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from areal_cppo.studies.statistics import mean_interval

Line = dict[str, Any]

MEASURES = (
    "auc",
    "average_precision",
    "precision_at_recall",
    "precision",
    "recall",
    "tokens",
)
_KEYS = ("task", "arm", "step", "view", "score")
_BY_VIEW = {"entropy_gain": "gain", "entropy_rise": "rise", "divergence": "KL"}


def summarise_detection(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A record per task, arm, step, view and score: means over seeds, with intervals.

    Means leave out seeds for which a measure does not exist.
    """
    groups: dict[tuple, list[Line]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[key] for key in _KEYS)].append(line)
    records = []
    for key, members in groups.items():
        means = {}
        for name in MEASURES:
            values = [x[name] for x in members if x.get(name) is not None]
            if values:
                means[name] = asdict(mean_interval(values))
        records.append(dict(zip(_KEYS, key)) | {"means": means})
    return records


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
    rows = [head]
    for record in records:
        if record["view"] == "own":
            means = record["means"]
            rows.append([record["score"], *(_mean(means, name) for name in MEASURES)])
    return aligned(title, rows)


def _by_view(title: str, records: Sequence[dict[str, Any]]) -> str:
    names = _BY_VIEW.values()
    head = ["view", *(f"{kind} {name}" for name in names for kind in ("AUC", "AP"))]
    head += ["precision", "recall", "tokens"]
    found = {(record["view"], record["score"]): record["means"] for record in records}
    rows = [head]
    for view in dict.fromkeys(record["view"] for record in records):
        row = [view]
        for score in _BY_VIEW:
            row += [_mean(found[view, score], x) for x in MEASURES[:2]]
        row += [_mean(found[view, "selection"], name) for name in MEASURES[3:]]
        rows.append(row)
    return aligned(title, rows)


def _mean(means: dict[str, Any], name: str) -> str:
    if name not in means:
        return ""
    return format(means[name]["mean"], ".1f" if name == "tokens" else ".2f")


def aligned(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under a title: the first column to the left, others to the
    right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([title, *lines])
