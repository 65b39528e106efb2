"""What a mathematical expression in LaTeX is worth, exactly where it can be.

A recursive descent over one expression that computes as it reads: with integers,
fractions and decimals exactly (`fractions.Fraction`), with roots, logarithms and angles
to 60 digits (mpmath). A letter stands for a number drawn for it.

It reads what has one meaning and refuses the rest (`Doubt`), where a library would
take one of several: `1 2`, `2{3}`, `5_6`, `1/2x`, `\\sqrt12`, `2\\frac{3}{2}`, words.
It can't be kept busy: every power is bounded, and there are no sums or integrals.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from fractions import Fraction
from random import Random

import mpmath

from areal_cppo.rewards.arithmetic import (
    DIGITS,
    Doubt,
    Number,
    add,
    call,
    choose,
    decimal,
    divide,
    factorial_of,
    mixed,
    multiply,
    periodic,
    power,
    root,
)

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<periodic>\d*\.\d*\\(?:(?:overline|bar)\s*\{\s*\d+\s*\}"
    r"|dot\s*\{\d\}(?:\d*\\dot\s*\{\d\})?))"
    r"|(?P<mixed>\d+\s*\\frac\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d(?!\d)))"
    r"|(?P<slashed>\d+\s+\d+/\d+)(?![.\d])"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![.\d]))"
    r"|(?P<command>\\[A-Za-z]+)"
    r"|(?P<name>[A-Z]{2,}(?![a-z]))"
    r"|(?P<word>[A-Za-z]{3,})"
    r"|(?P<letter>[A-Za-z])"
    r"|(?P<index>_\s*(?:\{[^{}]+\}|\w))"
    r"|(?P<degrees>\^\s*\\circ)"
    r"|(?P<mark>\*\*|[-+*/^!(){}|\[\]])"
    r")"
)
_NUMBERS = ("periodic", "mixed", "slashed", "number")
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa "
    "lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta "
    "Lambda Xi Sigma Phi Psi Omega"
).split()
_ANGLE_FUNCTIONS: dict[str, Callable] = {
    name: getattr(mpmath, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")
}
_FUNCTIONS: dict[str, Callable] = {
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "exp": mpmath.exp,
    "ln": mpmath.log,
    **_ANGLE_FUNCTIONS,
}
_WORDS = {*_FUNCTIONS, "log", "sqrt"}  # mathematics even without a backslash
_FOLLOWING = _WORDS - {"sqrt"}  # ends the argument of the function before it


class Calculator:
    """Computes one expression at one point; what binds least comes first."""

    def __init__(self, text: str, point: int, digits: int = DIGITS):
        self.digits = digits
        self.tokens = _tokens(text)
        self.at = 0
        self.point = point
        self.variables: set[str] = set()
        self.divided = False  # by a slash: what follows without a sign is in doubt
        self.in_angle = 0  # depth of the trigonometric functions around
        self.bars = 0  # absolute values that are open

    def value(self) -> Number:
        with mpmath.workdps(self.digits):
            result = self._sum()
        if self.kind:
            raise Doubt(self.text)
        return result

    @property
    def kind(self) -> str:
        """Of the next token; empty at the end."""
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    @property
    def text(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def _next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _take(self, *texts: str) -> bool:
        found = self.kind in ("mark", "command") and self.text in texts
        self.at += found
        return found

    def _sum(self) -> Number:
        result = self._product()
        while self.text in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            result = add(result, self._product(), sign)
        return result

    def _product(self) -> Number:
        self.divided = False
        result = self._signed()
        while True:
            if self._take("*", r"\cdot", r"\times"):
                self.divided = False
                result = multiply(result, self._signed())
            elif self._take("/", r"\div"):
                result = divide(result, self._signed())
                self.divided = True
            elif self._starts_factor():
                if self.divided or self.kind in _NUMBERS:
                    raise Doubt(f"{self.text} without a sign before it")
                result = multiply(result, self._factor())
            else:
                return result

    def _starts_factor(self) -> bool:
        if self.kind == "command":
            return self.text not in (r"\cdot", r"\times", r"\div")
        if self.kind == "mark":
            return self.text == "(" or (self.text == "|" and not self.bars)
        return self.kind in (*_NUMBERS, "name", "word", "letter")

    def _signed(self) -> Number:
        sign = 1
        while self.text in ("+", "-"):
            sign *= 1 if self._next() == "+" else -1
        factor = self._factor()
        return factor if sign > 0 else -factor

    def _factor(self) -> Number:
        result = self._atom()
        while True:
            if self._take("!"):
                result = factorial_of(result)
            elif self._take("^", "**"):
                result = power(result, self._exponent())
                if self.text in ("^", "**"):
                    raise Doubt("a tower of powers")
            elif self.kind == "degrees" and self.in_angle:
                self.at += 1
                result = multiply(result, mpmath.pi / 180)
            else:
                return result

    def _exponent(self) -> Number:
        if self.text in ("{", "("):
            return self._group()
        sign = -1 if self._take("-") else 1
        if self.kind == "number":
            return sign * decimal(self._next())
        if self.kind in (*_NUMBERS, "word"):
            raise Doubt("where the exponent ends")
        return sign * self._atom()

    def _group(self) -> Number:
        """In brackets."""
        closing = {"(": ")", "{": "}", "[": "]"}[self._next()]
        bars, self.bars = self.bars, 0
        result = self._sum()
        self.divided, self.bars = False, bars
        if not self._take(closing):
            raise Doubt(f"expected {closing}, found {self.text}")
        return result

    def _argument(self) -> Number:
        """Of a LaTeX command: braces, or one digit, letter or command."""
        if self.text == "{":
            return self._group()
        if self.kind not in _NUMBERS:
            return self._atom()
        if len(self.text) > 1:
            raise Doubt("digits of which one is meant, or all")
        return decimal(self._next())

    def _atom(self) -> Number:
        kind, text = self.kind, self.text
        if text in ("(", "{"):
            return self._group()
        if self._take("|"):
            self.bars += 1
            result = abs(self._sum())
            self.bars -= 1
            if not self._take("|"):
                raise Doubt("a bar without another")
            return result
        if not kind:
            raise Doubt("nothing")
        self.at += 1
        if kind in ("mixed", "slashed"):
            self.divided = kind == "slashed"
            return mixed(text)
        if kind in _NUMBERS:
            return periodic(text) if kind == "periodic" else decimal(text)
        if kind in ("letter", "name"):
            return self._variable(text)
        name = text.removeprefix("\\")
        if kind == "command" or name in _WORDS:
            return self._command(name)
        raise Doubt(text)

    def _variable(self, name: str) -> Number:
        if self.kind == "index":
            name += "_" + _inside(self._next())
        elif name == "e":
            return mpmath.e + 0
        elif name == "i":
            return mpmath.mpc(0, 1)
        self.variables.add(name)
        return _drawn(name, self.point)

    def _command(self, name: str) -> Number:
        if name == "pi":
            return mpmath.pi + 0
        if name == "infty":
            return mpmath.inf
        if name in _GREEK:
            return self._variable("\\" + name)
        if name in ("frac", "binom"):
            over, under = self._fraction()
            return divide(over, under) if name == "frac" else choose(over, under)
        if name == "sqrt":
            degree = self._group() if self.text == "[" else Fraction(2)
            return root(self._group() if self.text == "(" else self._argument(), degree)
        if name == "log":
            return self._logarithm()
        if name in _FUNCTIONS:
            return self._function(name)
        raise Doubt(name)

    def _fraction(self) -> tuple[Number, Number]:
        if self.kind == "number" and re.fullmatch(r"\d\d", self.text):  # \frac12
            digits = self._next()
            return Fraction(digits[0]), Fraction(digits[1])
        return self._argument(), self._argument()

    def _logarithm(self) -> Number:
        """Without a base it is to one that isn't known: log 6 = log 2 + log 3."""
        if self.kind == "index":
            calculator = Calculator(_inside(self._next()), self.point, self.digits)
            base = calculator.value()
            self.variables |= calculator.variables
        else:
            base = _drawn("base", self.point)
            self.variables.add("base")
        argument = self._behind()
        return divide(call(mpmath.log, argument), call(mpmath.log, base))

    def _function(self, name: str) -> Number:
        exponent = self._exponent() if self._take("^", "**") else Fraction(1)
        if exponent == -1 and name in ("sin", "cos", "tan"):
            name, exponent = "arc" + name, Fraction(1)
        self.in_angle += name in _ANGLE_FUNCTIONS
        argument = self._behind()
        self.in_angle -= name in _ANGLE_FUNCTIONS
        value = call(_FUNCTIONS[name], argument)
        return value if exponent == 1 else power(value, exponent)

    def _behind(self) -> Number:
        """What stands behind a function's name and belongs to it."""
        if self.text in ("(", "{"):
            value = self._group()
            if self.kind == "degrees" or self.text in ("^", "**", "!"):
                raise Doubt("a power of the argument or of the function")
            return value
        value = self._factor()
        while self._starts_factor() and self.text.removeprefix("\\") not in _FOLLOWING:
            if self.kind in _NUMBERS or self.text == "(":
                raise Doubt("where the argument ends")
            value = multiply(value, self._factor())
        return value


@functools.lru_cache(1024)
def _drawn(name: str, point: int) -> Fraction:
    """A letter's number at a point: above zero, or at every other point any."""
    random = Random(f"{name} {point}")
    value = Fraction(random.randint(20, 9999), random.randint(1001, 1999))
    return value * random.choice((1, -1)) if point % 2 else value


def _inside(index: str) -> str:
    return index.removeprefix("_").strip().removeprefix("{").removesuffix("}").strip()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Doubt(text[at:])
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return tokens
