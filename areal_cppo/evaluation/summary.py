"""The numbers of an evaluation: accuracies with 95 % confidence intervals.

The intervals are for other problems of the same kind. Greedy accuracy is a proportion
of independent problems: Wilson's score interval. Average-at-k has k responses to each
of them, which are alike: `clustered_interval`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from areal_cppo.report.confidence import wilson_interval

GREEDY = "greedy"  # the sample that is not one of the k


def clustered_interval(means: Sequence[float], responses: int) -> tuple[float, float]:
    """95 % interval of the mean of `means`, one of each problem's k responses.

    Wilson's interval with the number of independent responses that are worth as much
    as these (Kish's effective sample size, as Korn and Graubard 1998 use it):
    `p (1 - p)` over the variance of the mean of the problems' means. It is the number
    of problems if all responses to one are alike, that of responses if they are
    independent, and never outside these two. Unlike a normal interval or a bootstrap
    over problems it stays within 0 and 1, and has a width where all responses are
    right. With one response a problem it is Wilson's interval.

    Parameters
    ----------
    means
        Share of right responses to each problem.
    responses
        To all of them.

    Raises
    ------
    ValueError
        There are no problems, or fewer responses than problems.
    """
    n = len(means)
    if not 1 <= n <= responses:
        raise ValueError(
            f"expected one problem or more and at least as many responses, found {n} "
            f"and {responses}; leave out problems without a response"
        )
    mean = fmean(means)
    variance = sum((share - mean) ** 2 for share in means) / n**2
    spread = mean * (1 - mean)
    if spread == 0:  # all right or all wrong: nothing says how alike they are
        effective = float(n)
    elif variance == 0:
        effective = float(responses)
    else:
        effective = min(max(spread / variance, n), responses)
    return wilson_interval(mean * effective, effective)


def summarize(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies of an evaluation's records (`folder.EvaluationFolder`).

    Returns
    -------
    dict
        `greedy` and `average_at_k`: each `None` without a record of it, else
        `accuracy`, `interval`, `n` problems, `responses`, and shares of the responses:
        `format`, `cut_off` (by the limit of length); and mean `tokens`, `reward` and
        `parts`. Where a record doesn't know `format` or `reward` its mean is `None`.
        `refused` has counts by reason.
    """
    greedy, sampled = [], []
    refused: dict[str, int] = defaultdict(int)
    for record in records:
        if record["refused"]:
            refused[record["refused"]] += 1
        else:
            (greedy if record["sample"] == GREEDY else sampled).append(record)
    return {
        "greedy": _part(greedy),
        "average_at_k": _part(sampled),
        "refused": dict(sorted(refused.items())),
    }


def _part(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracy of one kind of responses."""
    if not records:
        return None
    right = defaultdict(list)
    for record in records:
        right[record["index"]].append(record["correct"])
    parts = defaultdict(list)
    for record in records:
        for name, value in record.get("parts", {}).items():
            parts[name].append(value)
    means = [fmean(outcomes) for outcomes in right.values()]
    return {
        "accuracy": fmean(means),
        "interval": list(clustered_interval(means, len(records))),
        "n": len(means),
        "responses": len(records),
        "format": _mean(records, "format"),
        "cut_off": fmean(record["finish_reason"] == "length" for record in records),
        "tokens": fmean(record["tokens"] for record in records),
        "reward": _mean(records, "reward"),
        "parts": {name: fmean(values) for name, values in sorted(parts.items())},
    }


def _mean(records: list[dict[str, Any]], name: str) -> float | None:
    values = [record.get(name) for record in records]
    return None if None in values else fmean(values)


def describe(summary: dict[str, Any], k: int, temperature: float) -> list[str]:
    """The summary in a few lines for people."""
    lines = []
    for name, part in (
        ("greedy", summary["greedy"]),
        (f"average@{k}", summary["average_at_k"]),
    ):
        if part is None:
            continue
        low, high = (100 * end for end in part["interval"])
        line = (
            f"{name}: {100 * part['accuracy']:.1f} % (95 %: {low:.1f} to {high:.1f}), "
            f"{part['n']:,} problems"
        )
        if name != "greedy":
            line += f", {part['responses']:,} responses at temperature {temperature:g}"
        shares = {"format": part["format"], "cut off": part["cut_off"]}
        said = [f"{k} {100 * v:.1f} %" for k, v in shares.items() if v is not None]
        said.append(f"{part['tokens']:.0f} tokens")
        means = {"reward": part["reward"], **part["parts"]}
        told = ("answer", "format", "judges_differ")
        said += [
            f"{name} {mean:.3g}"
            for name, mean in means.items()
            if mean is not None and name not in told
        ]
        lines.append(f"{line}; {', '.join(said)}")
    if summary["refused"]:
        counts = ", ".join(f"{k} {n:,}" for k, n in summary["refused"].items())
        lines.append(f"refused, not in these numbers: {counts}")
    return lines
