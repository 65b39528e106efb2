"""Whether two mathematical expressions are the same.

Each letter stands for a number drawn for it; expressions are the same if they agree at
several such points (Schwartz, 1980): exactly, or to 40 digits where roots are in them.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import mpmath

from areal_cppo.rewards.arithmetic import (
    DIGITS,
    Doubt,
    Number,
    Undefined,
    close,
    inexact,
    is_real,
)
from areal_cppo.rewards.calculator import Calculator

_MANY_DIGITS = 3000  # no answer that can be read is that small, but 0
_POINTS = 8
_ENOUGH = 3  # points at which both can be computed


def same(one: str, other: str) -> bool:
    """Whether two expressions are equal.

    Parameters
    ----------
    one, other
        Cleaned LaTeX (`typography.clean`).

    Raises
    ------
    Doubt
        One of them can't be read.
    """
    return _agree(one, other, close) or _both_vanish(one, other)


def proportional(one: str, other: str, positive: bool = False) -> bool:
    """Whether two expressions in letters differ by a constant factor, not zero.

    `positive` asks for a factor above zero. Raises `Doubt`.
    """
    factors = []

    def compare(a: Number, b: Number) -> bool:
        if a == 0 or b == 0:
            return a == b
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            factors.append(a / b)
        else:
            factors.append(inexact(a) / inexact(b))
        if positive and not (is_real(factors[-1]) and factors[-1] > 0):
            return False
        return close(factors[0], factors[-1])

    return bool(letters(one) or letters(other)) and (
        _agree(one, other, compare) and len(factors) >= _ENOUGH
    )


def letters(text: str) -> frozenset[str]:
    """The variables of an expression; raises `Doubt`."""
    calculator = Calculator(text, 0)
    try:
        calculator.value()
    except Undefined:
        pass
    return frozenset(calculator.variables)


def constant(text: str) -> Number:
    """The value of an expression without variables; raises `Doubt`."""
    calculator = Calculator(text, 0)
    try:
        value = calculator.value()
    except Undefined:
        raise Doubt(text) from None
    if calculator.variables:
        raise Doubt(text)
    return value


def _both_vanish(one: str, other: str) -> bool:
    """Whether one is 0, and the other what roundings leave of it: `\\cos 90^\\circ`.

    The more digits there are, the less they leave.
    """
    for digits in (DIGITS, _MANY_DIGITS):
        try:
            values = [Calculator(text, 0, digits).value() for text in (one, other)]
        except Undefined:
            return False
        values.sort(key=lambda value: not isinstance(value, Fraction))
        limit = mpmath.mpf(10) ** (DIGITS // 2 - digits)
        if values[0] != 0 or isinstance(values[1], Fraction) or abs(values[1]) > limit:
            return False
    return True


def _agree(one: str, other: str, compare: Callable[[Number, Number], bool]) -> bool:
    agreed = 0
    for point in range(_POINTS):
        calculators = Calculator(one, point), Calculator(other, point)
        try:
            with mpmath.workdps(DIGITS):
                if not compare(*(calculator.value() for calculator in calculators)):
                    return False
        except Undefined:
            continue
        if not any(calculator.variables for calculator in calculators):
            return True
        agreed += 1
    return agreed >= _ENOUGH
