"""Kinds of variants: equations, inequalities, intervals."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from tests.rewards.variants.writing import (
    DIGIT,
    NONZERO,
    SMALL,
    kind,
    orders,
    plain,
    terms,
    told_apart,
)


@kind
def one_named_expression(draw):
    name, z = draw(st.permutations(["y", "S", "z", "h", "V"]))[:2]
    k = tuple(draw(NONZERO) for _ in range(3))
    k = k if draw(st.booleans()) else (0, *k[1:])

    def write(k: tuple[int, int, int], name: str = name) -> list[str]:
        summands = [(k[0], "x^2"), (k[1], "x"), (k[2], "")]
        sums = [terms(*summands), terms(*reversed(summands))]
        return sums + [
            f"{name}{equals}{text}" for text in sums for equals in ("=", " = ")
        ]

    a, b, c = k
    others = [(-a, b, c), (a, -b, c), (a, b, -c), (a, b + 1, c), (a, c, b), (a, b, 0)]
    case = told_apart(k, others, write, [f"{name}>{terms((b, 'x'), (c, ''))}"])
    if draw(st.booleans()):  # `z` is another name where the truth has one
        named = [text for text in case.truths if "=" in text]
        return case._replace(truths=named, wrong=[*case.wrong, *write(k, z)[2:]])
    return case


# An interval: its ends, None for infinity, each with whether it belongs to it.
Interval = tuple[int | None, bool, int | None, bool]


def interval(piece: Interval, infinity: str = r"\infty") -> str:
    low, from_low, high, to_high = piece
    start = r"-\infty" if low is None else plain(low)
    end = infinity if high is None else plain(high)
    return f"{'(['[from_low]}{start},{end}{')]'[to_high]}"


def relations(piece: Interval, x: str) -> list[str]:
    low, from_low, high, to_high = piece
    texts = []
    for at_most, at_least in ((r"\le ", r"\ge "), ("≤", "≥"), (r" \leq ", r" \geq ")):
        above, up = (at_least, at_most) if from_low else (">", "<")
        down, below = (at_least, at_most) if to_high else (">", "<")
        if low is None or high is None:
            end, one, two = (low, above, up) if high is None else (high, below, down)
            texts += [f"{x}{one}{plain(end)}", f"{plain(end)}{two}{x}"]
        else:
            texts += [f"{plain(low)}{up}{x}{below}{plain(high)}"]
            texts += [f"{plain(high)}{down}{x}{above}{plain(low)}"]
    return texts


@kind
def intervals_and_inequalities(draw):
    x, y = draw(st.permutations("xyta"))[:2]
    low, high = sorted(draw(st.lists(SMALL, min_size=2, max_size=2, unique=True)))
    from_low, to_high = draw(st.booleans()), draw(st.booleans())
    up, down = (low, from_low, None, False), (None, False, high, to_high)
    left, right = (None, False, low, from_low), (high, to_high, None, False)
    between = (low, from_low, high, to_high)
    value = draw(
        st.sampled_from([(up,), (down,), (between,), (between,), (left, right)])
    )

    def write(pieces: tuple[Interval, ...], x: str = x) -> list[str]:
        named = [relations(piece, x) for piece in pieces]
        texts = [
            text for order in zip(*named, strict=True) for text in orders(order, " or ")
        ]
        whole = orders([interval(piece) for piece in pieces], r"\cup ", r" \cup ", "∪")
        whole += [interval(piece, "+\\infty") for piece in pieces if len(pieces) == 1]
        texts += [rf"{x}\in {text}" for text in whole] + [
            rf"{x} \in{text}" for text in whole
        ]
        # Both ends open, it could be a point.
        return texts + whole * (None in pieces[0] or pieces[0][1] or pieces[0][3])

    first, rest = value[0], value[1:]
    a, open_a, b, open_b = first
    others = [
        ((a, a is not None and not open_a, b, open_b), *rest),
        (between,),
        (up,),
        (down,),
    ]
    others += [
        ((a, open_a, b, b is not None and not open_b), *rest),
        (left, right),
        (left,),
    ]
    shift = draw(DIGIT)
    others += [
        ((a, open_a, b and b + shift, open_b), *rest),
        ((a and a - shift, open_a, b, open_b), *rest),
    ]
    wrong = [plain(low), f"{x}={plain(high)}"]
    if value == (between,) and (from_low or to_high):
        wrong += [f"({plain(low)},{plain(high)})"]
    case = told_apart(value, others, write, wrong, key=frozenset)
    if draw(st.booleans()):  # another name is wrong where the truth has one
        truths = [text for text in case.truths if text[0] not in "(["]
        renamed = [text for text in write(value, y) if text[0] not in "(["]
        return case._replace(truths=truths, wrong=[*case.wrong, *renamed])
    return case


@kind
def lines(draw):
    line = tuple(draw(NONZERO) for _ in range(3))
    line = draw(st.sampled_from([line, (line[0], 1, line[2]), (*line[:2], 0)]))
    scale = draw(st.integers(2, 5))

    def write(line: tuple[int, int, int]) -> list[str]:
        a, b, c = line
        x, y, one = (a, "x"), (b, "y"), (c, "")
        slope, start = (Fraction(-a, b), "x"), (Fraction(-c, b), "")
        solved = terms(slope, start)
        texts = [f"{terms(*order)}=0" for order in ((x, y, one), (y, x, one))]
        texts += [f"{terms(x, y)}={-c}", f"{terms(x, one)}={terms((-b, 'y'))}"]
        texts += [f"{terms(*((scale * k, name) for k, name in (x, y, one)))} = 0"]
        texts += [
            f"y={solved}",
            f"y = {solved}",
            f"{terms((1, 'y'), (-slope[0], 'x'))}={terms(start)}",
        ]
        return texts

    a, b, c = line
    others = [
        (-a, b, c),
        (a, b, -c),
        (2 * a, b, c),
        (a, b, c + 1),
        (b, a, c),
        (a, b, 2 * c),
        (a, 3 * b, c),
    ]
    wrong = [
        f"y>{terms((Fraction(-a, b), 'x'), (Fraction(-c, b), ''))}",
        f"x={a}, y={b}",
    ]

    def key(line: tuple[int, int, int]) -> tuple[Fraction, Fraction]:
        return Fraction(line[1], line[0]), Fraction(line[2], line[0])

    return told_apart(line, others, write, wrong, key)


@kind
def circles(draw):
    h, k = draw(SMALL), draw(SMALL)
    radius = draw(st.integers(1, 12))

    def write(circle: tuple[int, int, int]) -> list[str]:
        h, k, area = circle
        squares = [
            f"({terms((1, n), (-v, ''))})^2" if v else f"{n}^2"
            for n, v in (("x", h), ("y", k))
        ]
        ones, constant = (
            [(1, "x^2"), (1, "y^2"), (-2 * h, "x"), (-2 * k, "y")],
            h * h + k * k - area,
        )
        return [
            *orders(squares, "+"),
            f"{terms(*ones, (constant, ''))}=0",
            f"{terms(*ones)}={-constant}",
        ]

    def equations(circle: tuple[int, int, int]) -> list[str]:
        one, two, *rest = write(circle)
        return [f"{one}={circle[2]}", f"{two} = {circle[2]}", *rest]

    area = radius * radius
    others = [
        (-h, k, area),
        (h, -k, area),
        (k, h, area),
        (h, k, area + 1),
        (h, k, radius),
    ]
    return told_apart((h, k, area), [*others, (h + 1, k, area)], equations, [f"{area}"])
