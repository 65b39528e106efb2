"""Kinds of variants: what they are, and ways to write numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import permutations
from typing import Any, NamedTuple

from hypothesis import strategies as st


class Pair(NamedTuple):
    """A true answer, an answer, and whether it is right."""

    kind: str
    truth: str
    answer: str
    right: bool
    question: str | None = None


class Case(NamedTuple):
    """True answers of one worth, and what is right or wrong for all of them."""

    truths: Sequence[str]
    right: Sequence[str]
    wrong: Sequence[str]
    question: str | None = None


KINDS: dict[str, st.SearchStrategy[Case]] = {}


def kind(function: Callable[..., Case]) -> Callable[..., Case]:
    """Register `function(draw)` as the strategy of the kind that it is named after."""
    KINDS[function.__name__.replace("_", " ")] = st.composite(function)()
    return function


@st.composite
def pairs(draw, name: str) -> tuple[Pair, Pair]:
    """A right variant and a near miss of a value of the kind `name`."""
    case = draw(KINDS[name])

    def pair(answers: Sequence[str], right: bool) -> Pair:
        truth = draw(st.sampled_from(case.truths))
        answer = draw(st.sampled_from([a for a in answers if a != truth]))
        return Pair(name, truth, answer, right, case.question)

    return pair(case.right, True), pair(case.wrong, False)


def told_apart(
    value: Any,
    others: Iterable[Any],
    write: Callable[[Any], list[str]],
    wrong: Iterable[str] = (),
    key: Callable[[Any], Any] = lambda value: value,
) -> Case:
    """The case of `value`. `others` with its `key` are dropped: no near misses."""
    changed = [o for o in others if key(o) != key(value)]
    texts = write(value)
    return Case(texts, texts, [text for o in changed for text in write(o)] + [*wrong])


def frac(p: object, q: object, size: str = "") -> str:
    return rf"\{size}frac{{{p}}}{{{q}}}"


def sign(value: Fraction | int) -> str:
    return "-" if value < 0 else ""


def plain(value: Fraction | int) -> str:
    s, p, q = sign(value), abs(value.numerator), value.denominator
    return f"{s}{p}" if q == 1 else s + frac(p, q)


def decimal(value: Fraction, places: int | None = None) -> str | None:
    """All digits, or None where they have no end; or those up to `places`."""
    if places is None:
        q, places = value.denominator, 0
        while (common := math.gcd(q, 10)) > 1:
            q, places = q // common, places + 1
        if q > 1:
            return None
    digits = str(int(abs(value) * 10**places)).zfill(places + 1)
    cut = len(digits) - places
    return sign(value) + (f"{digits[:cut]}.{digits[cut:]}" if places else digits)


def number(value: Fraction) -> list[str]:
    """Ways to write a rational number."""
    s, p, q = sign(value), abs(value.numerator), value.denominator
    texts = [plain(value), s + frac(2 * p, 2 * q), frac(f"{s}{3 * p}", 3 * q)]
    if s:
        texts += [text.replace("-", "−") for text in texts]
    if q == 1:
        return [*texts, f"{s}{p}.0", f"{s}{p}.000"]
    texts += [
        s + frac(p, q, "d"),
        s + frac(p, q, "t"),
        f"{s}{p}/{q}",
        f"{s}{4 * p}/{4 * q}",
    ]
    if max(p, q) < 10:
        texts += [rf"{s}\frac{p}{q}", rf"{s}\frac {p} {q}", rf"{s}\frac{p}{{{q}}}"]
    if text := decimal(value):
        texts += [text, text + "0", text.replace("0.", ".") if p < q else text]
    return texts


def surd(value: tuple[Fraction, int]) -> list[str]:
    """Ways to write a rational multiple of a square root."""
    k, b = value
    if b == 1 or not k:
        return number(k)
    s, a, c = sign(k), abs(k.numerator), k.denominator
    factor, root = "" if a == 1 else a, rf"\sqrt{{{b}}}"
    bare = rf"\sqrt{b}" if b < 10 else root
    rooted, inverse = (
        rf"\sqrt{{{a * a * b}}}",
        frac(a * b, f"{'' if c == 1 else c}{root}"),
    )
    if c == 1:
        texts = [f"{factor}{root}", rooted, f"{factor}√{b}", f"{factor}{bare}", inverse]
        texts += [rf"{factor}\sqrt({b})", f"{factor}sqrt({b})", f"{factor}√({b})"]
        texts += [f"{a}*sqrt({b})", rf"{a}\cdot{root}"] * (a > 1)
    else:
        texts = [
            frac(f"{factor}{root}", c),
            frac(a, c) + root,
            inverse,
            frac(rooted, c),
        ]
        texts += [f"{factor}√{b}/{c}", frac(f"{factor}{bare}", c)]
    return [s + text for text in texts]


def square(value: tuple[Fraction, int]) -> Fraction:
    """With the sign of the value: two surds are equal where these are."""
    return value[0] * abs(value[0]) * value[1]


def terms(*summands: tuple[Fraction | int, str]) -> str:
    """A sum of multiples, such as `2x^2-x+1`."""
    text = ""
    for k, name in summands:
        if k:
            one = abs(k) == 1 and name
            text += f"{'-' if k < 0 else '+'}{'' if one else plain(abs(k))}{name}"
    return text.removeprefix("+") or "0"


def orderings(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Every order of up to three, and of more every fifth."""
    return list(permutations(texts))[:: 1 if len(texts) < 4 else 5]


def orders(texts: Sequence[str], *separators: str) -> list[str]:
    """`texts` in several orders, between each of the separators."""
    return [s.join(order) for order in orderings(texts) for s in separators]


def different(values: Sequence[Any], extra: Any) -> list[tuple[Any, ...]]:
    """`values` with one dropped, negated or exchanged for `extra`, or one more."""
    values = tuple(values)
    changed = [values[:-1], values[1:], (*values, extra), (*values[:-1], -values[-1])]
    return [*changed, (extra, *values[1:]), (*values[:-1], extra)]


DIGIT = st.integers(1, 9)
SMALL = st.integers(-20, 20)
NONZERO = SMALL.filter(bool)
RATIONAL = st.builds(Fraction, NONZERO, DIGIT)
VALUE = st.one_of(NONZERO.map(Fraction), RATIONAL)
