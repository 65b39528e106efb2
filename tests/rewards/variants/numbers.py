"""Kinds of variants: numbers, exact to the last digit."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

from tests.rewards.variants.writing import (
    DIGIT,
    NONZERO,
    RATIONAL,
    Case,
    decimal,
    frac,
    kind,
    number,
    plain,
    sign,
    square,
    surd,
    terms,
    told_apart,
)

SQUAREFREE = st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13, 15, 17, 21])
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@kind
def integers(draw):
    n = draw(NONZERO | st.integers(1, 10**6) | st.integers(-(10**20), -(10**9)))
    place = 10 ** draw(st.integers(0, len(str(abs(n))) - 1))
    others = [-n, n + 1, n - 1, 10 * n, n + place, n - place, n + Fraction(1, 10**12)]
    wrong = [f"{n}, {n}", f"{n}, {n + 1}", rf"\pm{abs(n)}", f"{n} or {n + 2}"]
    wrong += [f"not {n}", f"{n} and {n + 1}", f"-({n})", f"{n}+1", f">{n}", f"{n}/0"]
    if abs(n) > 2:
        wrong += [f"{n}e", rf"{n}\pi", f"{n}^2", rf"\sqrt{{{abs(n)}}}", f"{n}!"]
    case = told_apart(Fraction(n), map(Fraction, others), number, wrong)
    return case._replace(right=[*case.right, f"{n}."])


@kind
def thousands(draw):
    n = draw(st.integers(1000, 10**10)) * draw(st.sampled_from([1, -1]))
    group = 1000 ** draw(st.integers(0, (len(str(abs(n))) - 1) // 3))

    def write(n: int) -> list[str]:
        marks = [",", "{,}", " ", r"\,"]
        return [f"{n}", f"{n:,}.0", *(f"{n:,}".replace(",", mark) for mark in marks)]

    wrong = [f"{n:,}".replace(",", ", "), f"{n:,}".replace(",", "; ")]
    wrong += [f"{n:,}".replace(",", ".")] * (abs(n) < 10**6)
    return told_apart(n, [-n, n + group, n - group, 10 * n, n // 10], write, wrong)


@kind
def fractions(draw):
    p, q = draw(st.integers(-99, 99).filter(bool)), draw(st.integers(2, 40))
    v = Fraction(p, q)
    others = [
        -v,
        1 / v,
        Fraction(p + 1, q),
        Fraction(p, q + 1),
        v + 1,
        v * v,
        Fraction(p),
    ]
    others += [Fraction(decimal(v, places)) for places in (1, 2, 4, 9)]
    return told_apart(v, others, number, [f"{p}, {q}", rf"{plain(v)}\pi"])


@kind
def decimals(draw):
    places = draw(st.integers(1, 8))
    v = Fraction(draw(st.integers(-(10**6), 10**6).filter(bool)), 10**places)
    step = Fraction(1, 10**places)
    others = [-v, v + step, v - step, v + step / 10, v * 10, v / 10, v + step / 10**9]
    return told_apart(v, [*others, Fraction(decimal(v, places - 1))], number)


def digits_and_period(value: Fraction) -> tuple[str, str]:
    """What stands before the period, from the sign on, and the period."""
    whole, rest = divmod(abs(value.numerator), value.denominator)
    digits, seen = "", {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, value.denominator)
        digits += str(digit)
    start = seen[rest]
    return f"{sign(value)}{whole}.{digits[:start]}", digits[start:]


@kind
def repeating_decimals(draw):
    q = draw(st.sampled_from([3, 6, 7, 9, 11, 12, 15, 18, 22, 27, 30, 37, 45, 99, 101]))
    p = draw(st.integers(-99, 99).filter(lambda p: not decimal(Fraction(p, q))))
    v = Fraction(p, q)
    head, period = digits_and_period(v)
    first, last = period[0], period[-1]
    dotted = rf"\dot{{{first}}}" + (len(period) > 1) * rf"{period[1:-1]}\dot{{{last}}}"
    right = [rf"{head}\overline{{{period}}}", rf"{head}\overline{{{period * 2}}}"]
    right += [head + dotted, rf"{head}{first}\overline{{{period[1:]}{first}}}"]
    # A digit less than 9 that the number doesn't have at that place.
    new_first, new_last = ((int(digit) + 1) % 9 for digit in (first, last))
    wrong = [head + period * n for n in (1, 2, 6)]
    wrong += [rf"{head}\overline{{{period[:-1]}{new_last}}}"]
    wrong += [rf"{head}{new_first}\overline{{{period}}}"]
    return Case([*right, plain(v)], [*right, *number(v)], wrong)


@kind
def powers_of_ten(draw):
    m = Fraction(draw(st.sampled_from([10, 16, 20, 30, 66, 24, 95])), 10)
    m = draw(st.sampled_from([m, m + Fraction(draw(st.integers(1, 9)), 100), -m]))
    e = draw(st.integers(-60, 30).filter(bool))

    def write(value: tuple[Fraction, int]) -> list[str]:
        m, e = value
        power = f"10^{{{e}}}"
        texts = [
            f"{decimal(m)}{times}{power}" for times in (r"\times", r" \cdot ", "*")
        ]
        texts += [
            f"{decimal(m)}×10{str(e).translate(SUPERSCRIPT)}",
            f"{decimal(m)}*10^{e}",
        ]
        texts += [f"{decimal(m)}e{e}", f"{decimal(m)}E{e}"]
        texts += [rf"{decimal(10 * m)} \times 10^{{{e - 1}}}"]
        if abs(m) == 1:
            texts += [sign(m) + power, f"{sign(m)}10{str(e).translate(SUPERSCRIPT)}"]
        return texts + ([decimal(m * Fraction(10) ** e)] if abs(e) < 13 else [])

    tenth = Fraction(1, 10)
    others = [(m, e + 1), (m, e - 1), (m, -e), (-m, e), (m + tenth, e), (2 * m, e)]
    wrong = ["0", "0.0", "0.000", f"{decimal(m)}e", decimal(m), f"{decimal(m)}^{{{e}}}"]
    return told_apart((m, e), others, write, wrong)


@kind
def mixed_numbers(draw):
    s, whole, q = draw(st.sampled_from([1, -1])), draw(DIGIT), draw(st.integers(2, 9))
    part = Fraction(draw(st.integers(1, q - 1)), q)
    pi = draw(st.sampled_from(["", "", r"\pi"]))

    def write(value: Fraction) -> list[str]:
        s, (whole, part) = sign(value), divmod(abs(value), 1)
        p, q = part.numerator, part.denominator
        texts = [text + pi for text in ([s + frac(whole * q + p, q)] if part else [])]
        texts += [text + pi for text in [decimal(value)] if text]
        if whole and part:
            texts += [f"{s}{whole}{frac(p, q, size)}{pi}" for size in ("", "d")]
            texts += [f"{s}{whole} {frac(p, q)}{pi}"]
            texts += [] if pi else [f"{s}{whole} {p}/{q}", f"{s}{whole * q + p}/{q}"]
        return texts

    v = s * (whole + part)
    others = [-v, s * whole + part, s * whole - part, s * whole * part, v + 1, s * part]
    return told_apart(v, others, write, [plain(v) + ("" if pi else r"\pi")])


@kind
def surds(draw):
    k, b = draw(RATIONAL | NONZERO.map(Fraction)), draw(SQUAREFREE)
    others = [
        (-k, b),
        (k + 1, b),
        (k, b + 1),
        (1 / k, b),
        (k, 1),
        (k * b, 1),
        (2 * k, b),
    ]
    wrong = [f"{float(k) * math.sqrt(b):.{places}f}" for places in (1, 2, 3, 6, 9)]
    wrong += [rf"\sqrt[3]{{{b}}}", f"{plain(k)}+" + rf"\sqrt{{{b}}}"] * (k > 2)
    return told_apart((k, b), others, surd, wrong, key=square)


@kind
def sums_with_surds(draw):
    r, k, b = draw(NONZERO), draw(NONZERO), draw(SQUAREFREE)

    def write(value: tuple[int, int, int]) -> list[str]:
        r, k, b = value
        roots = [rf"\sqrt{{{b}}}", f"√{b}", f"sqrt({b})"]
        texts = [
            t for s in roots for t in (terms((r, ""), (k, s)), terms((k, s), (r, "")))
        ]
        return [*texts, frac(terms((2 * r, ""), (2 * k, roots[0])), 2)]

    others = [
        (-r, k, b),
        (r, -k, b),
        (r + k, k, b),
        (r, k + 1, b),
        (k, r, b),
        (r, k, b + 1),
    ]
    others = [
        (r, k, b) for r, k, b in others if r and k and b not in (4, 8, 12, 16, 18)
    ]
    wrong = [f"{r + k * math.sqrt(b):.{places}f}" for places in (1, 3, 9)]
    return told_apart((r, k, b), others, write, wrong)


@kind
def multiples_of_pi(draw):
    v = draw(RATIONAL | NONZERO.map(Fraction))

    def write(value: Fraction) -> list[str]:
        s, p, q = sign(value), abs(value.numerator), value.denominator
        factor = "" if p == 1 else p
        if q == 1:
            texts = [rf"{factor}\pi", f"{factor}π", rf"{p}\pi", rf"{p} \cdot \pi"]
            texts += [frac(rf"{2 * p}\pi", 2)]
        else:
            texts = [frac(rf"{factor}\pi", q), frac(p, q) + r"\pi", f"{factor}π/{q}"]
            texts += [rf"{factor}\pi/{q}"]
            texts += [rf"{decimal(abs(value))}\pi"] * (decimal(value) is not None)
        return [s + text for text in texts]

    others = [-v, 1 / v, v + 1, 2 * v, v / 2, v / 180]
    wrong = [f"{float(v) * math.pi:.{places}f}" for places in (1, 2, 4, 9)]
    wrong += [
        plain(v),
        rf"{plain(v)}\pi^2",
        rf"{plain(v)}+\pi",
        rf"\frac{{{v.numerator}}}{{\pi}}",
    ]
    return told_apart(v, others, write, [*wrong, plain(v * Fraction(22, 7))])


@kind
def sines_of_degrees(draw):
    def square_of(function: str, degrees: int) -> Fraction:
        """Of the function, with its sign: 0, 1/4, 1/3, 1/2, 3/4, 1 or 3."""
        value = getattr(math, function)(math.radians(degrees))
        return Fraction(value * abs(value)).limit_denominator(4)

    names = [(f, d) for f in ("sin", "cos", "tan") for d in range(0, 361, 15)]
    exact = [(f, d) for f, d in names if d % 30 == 0 or d % 45 == 0]
    exact = [(f, d) for f, d in exact if f != "tan" or d % 180 != 90]
    half = Fraction(1, 2)
    roots = {0: (0, 1), 1: (half, 1), 2: (half, 2), 3: (half, 3), 4: (1, 1), 12: (1, 3)}

    def write(name: tuple[str, int]) -> list[str]:
        function, d = name
        s = square_of(*name)
        k, b = roots[4 * abs(s)] if abs(s) != Fraction(1, 3) else (Fraction(1, 3), 3)
        angles = [rf" {d}^\circ", rf"({d}^\circ)", rf"{{{d}^\circ}}", f" {d}°"]
        angles += [rf"\left({d}^{{\circ}}\right)"]
        return [rf"\{function}{angle}" for angle in angles] + surd(
            (k * (-1 if s < 0 else 1), b)
        )

    name = draw(st.sampled_from(exact))
    value = square_of(*name)
    wrong = [decimal(Fraction(math.sqrt(abs(value))), n) for n in (2, 4)] * (
        value not in (0, 1)
    )
    wrong = [text for text in wrong if Fraction(text) ** 2 != abs(value)]
    return told_apart(name, exact, write, wrong, key=lambda name: square_of(*name))


@kind
def polynomials(draw):
    a, b, c, d = (draw(NONZERO) for _ in range(4))
    c, d = draw(st.sampled_from([(c, d), (a, b), (a, -b)]))
    x, y = draw(st.permutations("xtnap"))[:2]

    def factor(*k: int, x: str = x) -> str:
        return terms((k[0], x), (k[1], ""))

    def write(k: tuple[int, int, int, int], x: str = x) -> list[str]:
        a, b, c, d = k
        summands = [(a * c, f"{x}^2"), (a * d + b * c, x), (b * d, "")]
        one, two = factor(a, b, x=x), factor(c, d, x=x)
        texts = [f"({one})({two})", f"({two})({one})", terms(*summands)]
        texts += [rf"({one})\cdot ({two})", terms(*reversed(summands))]
        return texts + [f"({one})^2", rf"\left({one}\right)^2"] * ((a, b) == (c, d))

    others = [
        (-a, b, c, d),
        (a, b, c, d + 1),
        (a, -b, c, -d),
        (a, b, -c, -d),
        (2 * a, b, c, d),
    ]

    def key(k: tuple[int, int, int, int]) -> tuple[int, int, int]:
        return k[0] * k[2], k[0] * k[3] + k[1] * k[2], k[1] * k[3]

    wrong = [*write((a, b, c, d), y), f"({factor(a, b)})^3"]
    return told_apart((a, b, c, d), [o for o in others if o[3]], write, wrong, key)
