"""Why an answer is right or wrong, in words for people; no reward depends on them."""

from __future__ import annotations

from collections.abc import Iterator

from areal_cppo.rewards.answers import READ, final_answer, judged
from areal_cppo.rewards.arithmetic import Doubt
from areal_cppo.rewards.equality import equal
from areal_cppo.rewards.expressions import letters
from areal_cppo.rewards.forms import Chain, Form, Ratio, Relation, Several, Span, read
from areal_cppo.rewards.typography import clean
from areal_cppo.rewards.units import Unit

_KINDS = {
    "": "values",
    "{}": "a set of",
    "cup": "a union of",
    "<>": "a vector of",
    **dict.fromkeys(("()", "[]", "(]", "[)"), "a point or interval of"),
}


def explain(answer: str | None, truth: str, question: str | None = None) -> list[str]:
    """What was compared and why the two are equal or not, a line each.

    Parameters
    ----------
    answer, truth, question
        As `answers.is_correct` takes them.
    """
    right, how = judged(answer, truth, question=question)
    verdict = "right" if right else "wrong"
    if how != READ:
        return [f"{verdict}: {how}"]
    forms: list[Form] = []
    lines = []
    for name, text in (("answer", answer), ("truth", truth)):
        cleaned = clean(final_answer(text) or text)
        try:
            forms.append(read(cleaned))
            lines.append(f"{name} read as {describe(forms[-1])}: {cleaned}")
        except (Doubt, RecursionError) as doubt:
            lines.append(f"{name} not understood ({doubt}): {cleaned}")
    if len(forms) < 2:
        why = "what is not understood is equal only letter by letter"
    else:
        why = "they are equal" if right else _difference(*forms)
    return [*lines, f"{verdict}: {why}"]


def describe(form: Form) -> str:
    """What an answer was read as, in a few words."""
    named = f", named {form.name}" if form.name else ""
    match form:
        case Several():
            several = _KINDS.get(form.brackets, f"{form.brackets} of")
            count = len(form.items)
            what = f"{count} values" if several == "values" else f"{several} {count}"
        case Span():
            low, high = form.low or "no end", form.high or "no end"
            what = f"an interval {form.brackets[0]}{low}, {high}{form.brackets[1]}"
        case Relation():
            what = "an equation" if form.sign == "=" else f"a relation ({form.sign})"
        case Ratio():
            what = f"a ratio of {len(form.parts)}"
        case Chain():
            what = f"{len(form.links)} links that have to be equal"
        case _:
            unknowns = _letters(form.text)
            what = f"an expression in {unknowns}" if unknowns else "a number"
            what += f" in {_unit(form.unit)}" if form.unit else ""
    return what + named


def _letters(text: str) -> str:
    try:
        return ", ".join(sorted(letters(text)))
    except (Doubt, RecursionError):
        return "signs that are not understood"


def _unit(unit: Unit) -> str:
    over = [(name, power) for name, power in unit if power > 0]
    under = [(name, -power) for name, power in unit if power < 0]
    words = [
        " ".join(n if p == 1 else f"{n}^{p}" for n, p in part)
        for part in (over or [("1", 1)], under)
    ]
    return "/".join(filter(None, words))


def _difference(answer: Form, truth: Form) -> str:
    """The first reason that is seen why two forms are not equal."""
    return next(_differences(answer, truth), "their values differ")


def _differences(answer: Form, truth: Form) -> Iterator[str]:
    try:
        equal(answer, truth)
    except (Doubt, RecursionError) as doubt:
        yield f"a doubt remains: {doubt}"
    if answer.name and truth.name and answer.name != truth.name:
        yield f"one is called {answer.name}, the other {truth.name}"
    if type(answer) is not type(truth):
        yield "only like is compared with like"
    units = getattr(answer, "unit", None), getattr(truth, "unit", None)
    if None not in units and units[0] != units[1]:
        one, other = map(_unit, units)
        yield f"units differ, {one} and {other}: none is converted"
    if isinstance(answer, Several) and isinstance(truth, Several):
        counts = len(answer.items), len(truth.items)
        if counts[0] != counts[1]:
            yield f"{counts[0]} values, not {counts[1]}"
        if answer.brackets != truth.brackets:
            yield "their brackets mean different things"
    if isinstance(answer, Span) and isinstance(truth, Span):
        if answer.brackets != truth.brackets:
            yield "an end is included in one only"
