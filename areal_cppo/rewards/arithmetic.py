"""Arithmetic in bounded time: exact on fractions, to 60 digits elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial

import mpmath
from mpmath.libmp import NoConvergence

Number = Fraction | mpmath.mpf | mpmath.mpc

DIGITS = 60
_TOLERANCE = mpmath.mpf(10) ** -40  # relative; two roundings at 60 digits are far below
_LONGEST_POWER = 8000  # bits
_LARGEST_EXPONENT = 10**4


class Doubt(Exception):
    """The text has no meaning here, or more than one."""


class Undefined(Exception):
    """No value at this point: a division by zero, a logarithm of zero."""


def close(a: Number, b: Number) -> bool:
    """Exactly equal where both are exact, else to 40 digits of their size."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    with mpmath.workdps(DIGITS):
        a, b = inexact(a), inexact(b)
        if mpmath.isinf(a) or mpmath.isinf(b):
            return bool(a == b)
        return bool(abs(a - b) <= _TOLERANCE * max(abs(a), abs(b)))


def inexact(value: Number):
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def is_real(value: Number) -> bool:
    return not isinstance(value, mpmath.mpc) or value.imag == 0


def power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction) and abs(exponent) > _LARGEST_EXPONENT:
        raise Doubt("a huge exponent")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if base == 0 and exponent <= 0:
            raise Undefined
        if exponent.denominator == 1:
            bits = max(abs(base.numerator), base.denominator).bit_length()
            if bits * abs(exponent) > _LONGEST_POWER:
                raise Doubt("a huge power")
            return base**exponent.numerator
    return call(mpmath.power, base, exponent)


def call(function: Callable, *arguments: Number) -> Number:
    arguments = tuple(map(inexact, arguments))
    if not all(map(mpmath.isfinite, arguments)):
        raise Doubt("infinity is no number to compute with")
    if (
        function in (mpmath.exp, mpmath.power)
        and abs(arguments[-1]) > _LARGEST_EXPONENT
    ):
        raise Doubt("a huge exponent")
    try:
        value = function(*arguments)
    except (ValueError, ZeroDivisionError, OverflowError, NoConvergence):
        raise Undefined from None
    if mpmath.isnan(value) or mpmath.isinf(value):
        raise Undefined
    return value


def add(a: Number, b: Number, sign: int) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + sign * b
    return _finite(inexact(a) + sign * inexact(b))


def multiply(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a * b
    return _finite(inexact(a) * inexact(b))


def divide(a: Number, b: Number) -> Number:
    if b == 0:
        raise Undefined
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a / b
    return _finite(inexact(a) / inexact(b))


def _finite(value: Number) -> Number:
    if not mpmath.isfinite(value):
        raise Doubt("infinity is no number to compute with")
    return value


def factorial_of(value: Number) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise Doubt("a factorial of no integer")
    if not 0 <= value <= 100:
        raise Doubt("a huge factorial")
    return Fraction(factorial(int(value)))


def choose(n: Number, k: Number) -> Fraction:
    if any(not isinstance(x, Fraction) or x.denominator != 1 for x in (n, k)):
        raise Doubt("a binomial of no integers")
    if not 0 <= k <= n <= 1000:
        raise Doubt("a huge binomial")
    return Fraction(comb(int(n), int(k)))


def decimal(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > 999:
        raise Doubt("a huge exponent")
    return Fraction(mantissa.rstrip(".") + (f"e{exponent}" if exponent else ""))


def periodic(text: str) -> Fraction:
    """`0.1\\overline{6}` is 1/6, `0.\\dot{2}\\dot{7}` 3/11."""
    before, _, rest = text.replace(" ", "").partition("\\")
    period = re.sub(r"\D", "", rest)
    places = len(before.partition(".")[2])
    start = Fraction(before.rstrip(".") or "0")
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10**places)


def mixed(text: str) -> Fraction:
    """`1\\frac{1}{2}`, `1 1/2`; `2\\frac{3}{2}` may be a product, and is in doubt."""
    digits = re.fullmatch(r"(\d+)\D+?(\d+)\D+(\d+)\D*|(\d+)\D+(\d)(\d)", text.strip())
    whole, over, under = (int(d) for d in digits.groups() if d)
    if not over < under:
        raise Doubt("a number before a fraction that is no proper one")
    return whole + Fraction(over, under)


def root(radicand: Number, degree: Number) -> Number:
    """The real root where there is one."""
    if degree == 0:
        raise Undefined
    if degree == 2:
        return call(mpmath.sqrt, radicand)
    odd = isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2
    if odd and is_real(radicand) and radicand < 0:
        return -power(-radicand, 1 / degree)
    return power(radicand, divide(Fraction(1), degree))
