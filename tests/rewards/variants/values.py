"""Kinds of variants: names, several values, sets, relations."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

from hypothesis import strategies as st

from tests.rewards.variants.writing import (
    VALUE,
    Case,
    decimal,
    different,
    kind,
    number,
    orderings,
    orders,
    plain,
    sign,
    told_apart,
)

NAME = st.sampled_from("x y t r AB CD S \\theta \\alpha a_5 x_1 f(2)".split())
ANDS = (", ", ",", "; ", " and ", r"\text{ and }", r",\ ")
ORS = (" or ", r"\text{ or }", ", ", ",", " 或 ")


def in_other_ways(value: Fraction) -> list[str]:
    """A few writings of it, those of a list's values."""
    texts = [plain(value)]
    if value.denominator > 1:
        texts += [f"{sign(value)}{abs(value.numerator)}/{value.denominator}"]
        texts += [decimal(value)] * (decimal(value) is not None)
    return texts


def distinct(least: int, most: int) -> st.SearchStrategy[list[Fraction]]:
    return st.lists(VALUE, min_size=least, max_size=most, unique=True)


def listings(
    values, *separators: str, before: str = "", after: str = "", any_order=True
):
    """`values` between brackets, in several orders or in theirs, in two writings."""
    styles = [[in_other_ways(v)[-1] for v in values], [plain(v) for v in values]]
    return [
        f"{before}{separator.join(order)}{after}"
        for style in styles
        for order in (orderings(style) if any_order else [style])
        for separator in separators
    ]


@kind
def one_named_value(draw):
    name, other = draw(st.lists(NAME, min_size=2, max_size=2, unique=True))
    v, w = draw(distinct(2, 2))
    k = draw(st.integers(2, 9))
    named = [f"{name}{equals}{text}" for text in number(v) for equals in ("=", " = ")]
    wrong = [f"{name}={text}" for text in number(w)] + number(w)
    wrong += [f"{k}{name}={plain(k * v)}", f"{name}^2={plain(v * v)}"]
    wrong += [rf"{name}{r}{plain(v)}" for r in ("<", ">", r"\le ", r"\ge ", r"\ne ")]
    wrong += [
        f"{name}={plain(v)}, {other}={plain(w)}",
        f"{name}={plain(v)} or {plain(w)}",
    ]
    if draw(st.booleans()):
        return Case(number(v), [*named, *number(v)], wrong)
    wrong += [f"{other}={text}" for text in number(v)] + [rf"{other}={plain(w)}"]
    return Case(named, [*named, *number(v)], wrong)


@kind
def several_named_values(draw):
    values = draw(distinct(2, 3))
    *names, other = draw(
        st.lists(NAME, min_size=len(values) + 1, max_size=len(values) + 1, unique=True)
    )
    new = draw(VALUE.filter(lambda v: v not in values))

    def write(items: tuple[tuple[str, Fraction], ...]) -> list[str]:
        texts = [
            [f"{n}={w(v)}" for n, v in items]
            for w in (plain, lambda v: in_other_ways(v)[-1])
        ]
        return [text for style in texts for text in orders(style, *ANDS)]

    items = tuple(zip(names, values, strict=True))
    (name, value), rest = items[0], items[1:]
    others = [
        ((name, new), *rest),
        ((name, -value), *rest),
        ((other, value), *rest),
        rest,
    ]
    others += [
        (*items, (other, new)),
        ((name, rest[0][1]), (rest[0][0], value), *rest[1:]),
    ]
    others += [((name, value), (name, rest[0][1]), *rest[1:]), ((name, value),)]
    wrong = [f"{name}={plain(value)}", plain(value), f"{name}>{plain(value)}"]
    return told_apart(items, others, write, wrong, key=frozenset)


@kind
def several_values_of_one_name(draw):
    values = draw(distinct(2, 3))
    name, other = draw(st.lists(NAME, min_size=2, max_size=2, unique=True))
    new = draw(VALUE.filter(lambda v: v not in values))

    def write(values, name: str = name) -> list[str]:
        named = orders([f"{name}={plain(v)}" for v in values], *ORS)
        return named + orders(
            [f"{name} = {in_other_ways(v)[-1]}" for v in values], *ORS
        )

    def unnamed(values) -> list[str]:
        texts = [plain(v) for v in values]
        return [
            *orders(texts, ", "),
            *(f"{name}={t}" for t in orders(texts, ", ", " or ")),
        ]

    def both(values) -> list[str]:
        return write(values) + unnamed(values)

    wrong = orders([f"{name}={plain(v)}" for v in (values[0], values[0])], *ORS)
    wrong += [rf"\pm{plain(abs(values[0]))}"] * (abs(values[0]) != abs(values[1]))
    case = told_apart(values, different(values, new), both, wrong, key=frozenset)
    if draw(st.booleans()):
        mixed = [f"{other}={plain(values[0])} or {name}={plain(v)}" for v in values[1:]]
        case = case._replace(truths=write(values))
        return case._replace(wrong=[*case.wrong, *write(values, other), *mixed])
    return case


@kind
def lists(draw):
    values = draw(distinct(2, 4))
    new = draw(VALUE.filter(lambda v: v not in values))

    def write(values) -> list[str]:
        return listings(
            values, ", ", ",", "; ", *([" and "] if len(values) == 2 else [])
        )

    wrong = write((*values, values[0])) + [plain(v) for v in (sum(values), values[-1])]
    wrong += [rf"{plain(values[0])}x, {plain(values[1])}x"]
    return told_apart(values, different(values, new), write, wrong, key=frozenset)


@kind
def points(draw):
    values = draw(st.lists(VALUE, min_size=2, max_size=3))
    new = draw(VALUE)

    def write(values) -> list[str]:
        brackets = [("(", ")"), (r"\left(", r"\right)"), ("( ", " )"), ("（", "）")]
        return [
            text
            for before, after in brackets
            for text in listings(
                values, ",", ", ", before=before, after=after, any_order=False
            )
        ]

    others = [*permutations(values), *different(values, new)]
    wrong = listings(values, ", ", before=r"\{", after=r"\}")
    wrong += [plain(sum(values))]
    if len(values) == 2 and values[0] < values[1]:
        ends = f"{plain(values[0])},{plain(values[1])}"
        wrong += [f"[{ends}]", f"({ends}]", f"[{ends})"]
    return told_apart(values, others, write, wrong, key=tuple)


@kind
def sets(draw):
    values = draw(distinct(2, 4))
    new = draw(VALUE.filter(lambda v: v not in values))

    def write(values) -> list[str]:
        texts = listings(values, ",", ", ", before=r"\{", after=r"\}")
        return texts + listings(values, ",", before=r"\left\{", after=r"\right\}")

    wrong = listings(values, ", ", before="(", after=")")
    wrong += [rf"\{{{text}\}}" for text in wrong[:2]] + [plain(sum(values))]
    wrong += [f"[{plain(min(values))},{plain(max(values))}]"] * (len(values) == 2)
    return told_apart(values, different(values, new), write, wrong, key=frozenset)


@kind
def ratios(draw):
    values = draw(st.lists(st.integers(1, 30), min_size=2, max_size=3))

    def write(values) -> list[str]:
        texts = [f"{colon}".join(map(str, values)) for colon in (":", " : ", "：")]
        return [*texts, f"${texts[0]}$"]

    def key(values) -> list[Fraction]:
        return [Fraction(v, values[0]) for v in values]

    others = [
        *permutations(values),
        (*values, 2),
        (values[0] + 1, *values[1:]),
        (*values[:-1], 31),
    ]
    return told_apart(values, others, write, key=key)
