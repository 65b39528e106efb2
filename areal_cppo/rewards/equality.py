"""When two answers are equal."""

from __future__ import annotations

import re
from dataclasses import replace

from areal_cppo.rewards.arithmetic import Doubt
from areal_cppo.rewards.expressions import constant, proportional, same
from areal_cppo.rewards.forms import (
    Chain,
    Form,
    Ratio,
    Relation,
    Several,
    Span,
    Value,
    has_letters,
)
from areal_cppo.rewards.units import PERCENT

# Not between digits, `1 2`, nor where a comma would become one of thousands, `5, 100`.
_IDLE_SPACE = re.compile(r"(?<!\d)(?<!\d,) |(?<=\d,) (?!\d{3}(?!\d))| (?!\d)")
_CLOCK = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d")


def squeezed(text: str) -> str:
    """Without the spaces that say nothing."""
    return _IDLE_SPACE.sub("", text)


def equal(answer: Form, truth: Form) -> bool:
    """Whether an answer is right; names and units may be left off on one side.

    Raises `Doubt`.
    """
    pair = answer, truth = _settled(answer), _settled(truth)
    if all(isinstance(form, Several) for form in pair):
        return _same_names(*pair) and _equal_several(*pair)
    if all(isinstance(form, Span) for form in pair):
        return _same_names(*pair) and _equal_spans(*pair)
    if isinstance(answer, Span) or isinstance(truth, Span):
        spans = [f if isinstance(f, Span) else _as_span(f) for f in pair]
        return None not in spans and _same_names(*spans) and _equal_spans(*spans)
    if all(isinstance(form, Ratio) for form in pair):
        return _same_names(*pair) and _equal_ratios(*pair)
    if all(isinstance(form, Value) for form in pair) and _same_names(*pair):
        return _equal_values(*pair)
    return _equal_relations(answer, truth)


def _settled(form: Form) -> Form:
    """The value of a chain, if all its links hold; the last may be rounded."""
    if not isinstance(form, Chain):
        return form
    first, last = form.links[0], form.links[-1]
    for one, other, sign in zip(form.links, form.links[1:], form.signs, strict=False):
        if not (equal(one, other) or (sign == r"\approx" and _rounds(one, other))):
            raise Doubt("a chain that does not hold")
    return replace(last if equal(first, last) else first, name=form.name)


def _rounds(exact: Form, decimal: Form) -> bool:
    """Whether the second is the first, rounded to as many places as it has."""
    if not (isinstance(exact, Value) and isinstance(decimal, Value)):
        return False
    match = re.fullmatch(r"[+-]?\d+(?:\.(\d+))?", decimal.text)
    if match is None:
        return False
    difference = abs(constant(exact.text) - constant(decimal.text))
    return bool(difference * 2 <= 1.000001 * 10.0 ** -len(match[1] or ""))


def _same_names(one: Form, other: Form) -> bool:
    return not (one.name and other.name) or one.name == other.name


def _equal_values(answer: Value, truth: Value) -> bool:
    units = answer.unit, truth.unit
    if None not in units and units[0] != units[1]:
        return False
    texts = answer.text, truth.text
    if squeezed(texts[0]) == squeezed(texts[1]) or same(*texts):
        return True
    percent = ((PERCENT, 1),)
    if units == (None, percent):
        return same(f"({texts[0]})*100", texts[1])
    if units == (percent, None):
        return same(f"({texts[0]})/100", texts[1])
    return False


def _equal_relations(answer: Form, truth: Form) -> bool:
    """Equations and inequalities of several letters, in any form.

    A truth that is solved (`x = 5`) asks for a solved answer: an equation that it
    solves was in the question.
    """
    if isinstance(truth, Value) and not (truth.name and has_letters(truth.text)):
        return False
    relations = [_as_relation(form) for form in (answer, truth)]
    if None in relations or relations[0].sign != relations[1].sign:
        return False
    one, other = relations
    ordered = one.sign not in ("=", r"\ne")
    return proportional(one.difference, other.difference, positive=ordered)


def _as_relation(form: Form) -> Relation | None:
    if isinstance(form, Value) and form.name and form.unit is None:
        return Relation("=", form.name, form.text)
    return form if isinstance(form, Relation) else None


def _as_span(form: Form) -> Span | None:
    """Two values in the brackets of an interval."""
    if not isinstance(form, Several) or form.brackets not in ("()", "(]", "[)", "[]"):
        return None
    if len(form.items) != 2 or not all(isinstance(i, Value) for i in form.items):
        return None
    return Span(*(i.text for i in form.items), form.brackets, form.name)


def _equal_spans(answer: Span, truth: Span) -> bool:
    if answer.brackets != truth.brackets:
        return False
    return all(
        same(
            one if one is not None else endless, other if other is not None else endless
        )
        for one, other, endless in (
            (answer.low, truth.low, r"-\infty"),
            (answer.high, truth.high, r"\infty"),
        )
    )


def _equal_ratios(answer: Ratio, truth: Ratio) -> bool:
    if len(answer.parts) != len(truth.parts):
        return False
    pairs = list(zip(answer.parts, truth.parts, strict=True))
    if _CLOCK.fullmatch(":".join(truth.parts)):  # 3:45 is not 1:15
        return all(same(*pair) for pair in pairs)
    first = pairs[0]
    return all(
        same(f"({one})*({first[1]})", f"({other})*({first[0]})") for one, other in pairs
    )


def _equal_several(answer: Several, truth: Several) -> bool:
    if len(answer.items) != len(truth.items):
        return False
    names = [_names_of(form) for form in (answer, truth)]
    if answer.brackets != truth.brackets:
        return _equal_across(answer, truth, names)
    if answer.brackets not in ("", "{}", "cup"):
        return _in_order(answer.items, truth.items)
    if not answer.brackets and [bool(n) for n in names].count(True) == 1:
        if len(set(names[0] or names[1])) > 1:
            return _equal_across(answer, truth, names)
    if not answer.brackets and any(map(_is_label, truth.items)):
        return _in_order(answer.items, truth.items)
    left = list(truth.items)
    for item in answer.items:
        match = next((other for other in left if equal(item, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _equal_across(answer: Several, truth: Several, names: list[list[str]]) -> bool:
    """Values under other brackets, or with names on one side only.

    A set may go without its braces. `x = 2, y = 3` is `(2, 3)`, and `2, 3`, if its
    names are in the alphabet's order: another order could be meant.
    """
    brackets = {answer.brackets, truth.brackets}
    if brackets == {"", "{}"} and len(set(names[0] + names[1])) <= 1:
        bare = replace(answer, brackets=""), replace(truth, brackets="")
        return _equal_several(*bare)
    named = names[0] or names[1]
    if not brackets <= {"", "()"} or bool(names[0]) == bool(names[1]):
        return False
    if (answer if names[0] else truth).brackets or named != sorted(set(named)):
        return False
    return _in_order(answer.items, truth.items)


def _names_of(form: Several) -> list[str]:
    names = [item.name for item in form.items]
    if any(names) and not all(names):
        raise Doubt("names for some of the values")
    return [name for name in names if name]


def _is_label(item: Form) -> bool:
    """A letter or a word, the order of which may be the answer."""
    return isinstance(item, Value) and bool(re.fullmatch(r"[^\W\d_][^\d_]*", item.text))


def _in_order(answer: tuple, truth: tuple) -> bool:
    return all(equal(*pair) for pair in zip(answer, truth, strict=True))
