"""What an answer is: a value, several, a point, an interval, an equation.

An answer is split at its outermost commas, brackets and relations; what is left are
single expressions (`expressions.py`) with their units (`units.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from areal_cppo.rewards.arithmetic import Doubt
from areal_cppo.rewards.brackets import is_balanced, relations, split, without_thousands
from areal_cppo.rewards.expressions import letters
from areal_cppo.rewards.units import Unit, split_unit

_MAX_ITEMS = 50

_SPACED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_RATIO = re.compile(r"[^:=<>]+(?::[^:=<>]+)+")
_MATRIX = re.compile(r"\\begin\{matrix\}(.*)\\end\{matrix\}")
_PAIRS = [(r"\{", r"\}"), ("{", "}"), (r"\langle", r"\rangle")]
_PAIRS += [(opening, closing) for opening in "([" for closing in ")]"]
_KINDS = {r"\{": "{}", r"\langle": "<>"}
_POINT = re.compile(r"([A-Z])'?\s*(?=\()")
_NAME = re.compile(
    r"(?:\\(?:vec|overline|overrightarrow)\s*\{\s*\w+\s*\}|\|[A-Z]{2}\|"
    r"|(?:m\s*)?\\?[A-Za-z][A-Za-z\\ ']*)(?:_\{[^{}]*\}|_\w)?(?:\(\w+\))?"
    r"|\(\w+(?:,\s*\w+)+\)"
)
_NO_NAME = re.compile(
    r"\\?(?:(?:sin|cos|tan|cot|sec|csc|log|ln|exp|pi|pm)(?![a-z])|sqrt|frac)|[a-z]{2}$"
)
_BARE = re.compile(
    r"\\(?:overline|overrightarrow|vec|angle|triangle)(?![a-z])|[|{}\s]|^m(?=\\angle)"
)
_OPPOSITE = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


@dataclass(frozen=True)
class Value:
    """One expression."""

    text: str
    unit: Unit | None = None
    name: str | None = None


@dataclass(frozen=True)
class Several:
    """Values, and what is around them.

    `brackets` is empty, `()`, `[)`, `{}`, `<>`, `cup` for a union, or a matrix's shape.
    """

    items: tuple
    brackets: str = ""
    name: str | None = None


@dataclass(frozen=True)
class Span:
    """What a variable may be: `x > 2`. An end is None where there is none."""

    low: str | None
    high: str | None
    brackets: str
    name: str | None = field(default=None)


@dataclass(frozen=True)
class Relation:
    """Two expressions that are equal, or one above the other."""

    sign: str
    left: str
    right: str
    name: str | None = None

    @property
    def difference(self) -> str:
        return f"({self.left})-({self.right})"


@dataclass(frozen=True)
class Ratio:
    """Numbers with colons between them."""

    parts: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True)
class Chain:
    """`10/2 = 5`, `\\sqrt{5} \\approx 2.24`: one value, if all links hold."""

    links: tuple
    signs: tuple[str, ...]
    name: str | None = None


Form = Chain | Value | Several | Span | Relation | Ratio


def read(text: str) -> Form:
    """The form of a cleaned answer.

    Raises
    ------
    Doubt
        It has none, or more than one.
    """
    text = without_thousands(text.strip())
    if not text:
        raise Doubt("nothing")
    unions = split(text, r"\cup")
    if len(unions) > 1:
        parts = [_list(part.strip()) for part in unions]
        if any(isinstance(part, Span | Several) for part in parts):
            return replace(_inherit(parts), brackets="cup")
        return _inherit(parts)
    return _list(text)


def _list(text: str) -> Form:
    parts = split(text, ",;")
    if len(parts) == 1:
        signs = re.findall(r"\\(?:pm|mp)(?![a-z])", text)
        if not signs:
            return _single(text)
        upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
        lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
        parts = [re.sub(r"(?<==)\s*\+|^\s*\+", "", upper), lower]
    if not 1 < len(parts) <= _MAX_ITEMS or not all(part.strip() for part in parts):
        raise Doubt(text)
    return _inherit([_single(part.strip()) for part in parts])


def _inherit(parts: list[Form]) -> Several:
    """`x = 1, 2` is `x = 1, x = 2`."""
    names = {part.name for part in parts if part.name}
    if len(names) == 1 and parts[0].name:
        parts = [replace(part, name=parts[0].name) for part in parts]
    return Several(tuple(parts))


def _single(text: str) -> Form:
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    point = _POINT.match(text)
    if point is not None:
        bracketed = _bracketed(text[point.end() :])
        if bracketed is not None:
            return replace(bracketed, name=point[1])
    marks = list(relations(text))
    if marks:
        return _related(text, marks)
    if _RATIO.fullmatch(text):
        return Ratio(tuple(part.strip() for part in text.split(":")))
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = [row.split("&") for row in matrix[1].split(r"\newline")]
        cells = tuple(_single(cell.strip()) for row in rows for cell in row)
        return Several(cells, f"matrix {[len(row) for row in rows]}")
    if _SPACED.fullmatch(text):
        return Value(text.replace(" ", ""))
    return Value(*split_unit(text))


def _bracketed(text: str) -> Several | None:
    """A point, an interval, a set or a vector; None where it is none as a whole."""
    for opening, closing in _PAIRS:
        if not (text.startswith(opening) and text.endswith(closing)):
            continue
        inner = text[len(opening) : -len(closing)]
        if not is_balanced(inner) or not inner.strip():
            return None
        parts = split(inner, ",;")
        if len(parts) == 1 and opening in "({":
            return None
        if len(parts) > _MAX_ITEMS or not all(part.strip() for part in parts):
            raise Doubt(text)
        kind = _KINDS.get(opening, opening + closing)
        return Several(tuple(_single(part.strip()) for part in parts), kind)
    return None


def _related(text: str, marks: list[re.Match]) -> Form:
    """What an equals sign or an inequality is about."""
    ends = [0, *(m.end() for m in marks)]
    starts = [*(m.start() for m in marks), len(text)]
    sides = [text[e:s].strip() for e, s in zip(ends, starts, strict=True)]
    signs = [m[0] for m in marks]
    if not sides[0] and signs[0] == "=":
        return _single("=".join(sides[1:]))
    if not all(sides):
        raise Doubt(text)
    if signs == [r"\in"] and _is_name(sides[0]):
        return replace(read(sides[1]), name=_bare(sides[0]))
    if set(signs) <= {"=", r"\approx"}:
        return _chain(sides, signs)
    return _inequality(sides, signs)


def _chain(sides: list[str], signs: list[str]) -> Form:
    """`AB = 10/2 = 5` is 5, named AB; `2x = 10` is an equation and stays one."""
    names = []
    while len(sides) > 1 and _is_name(sides[0]):
        names.append(_bare(sides.pop(0)))
        first, *signs = signs
    if (
        not names
        and len(sides) == 2
        and _is_name(sides[1])
        and not has_letters(sides[0])
    ):
        names, sides = [_bare(sides[1])], sides[:1]  # 5 = x
    if len(sides) == 1:
        form = read(sides[0])
        return replace(form, name=names[0]) if names else form
    if not names and len(sides) == 2 and (letters(sides[0]) | letters(sides[1])):
        return Relation("=", *sides)
    return Chain(tuple(map(read, sides)), tuple(signs), names[0] if names else None)


def _inequality(sides: list[str], signs: list[str]) -> Form:
    if signs == [r"\ne"]:
        variable, value = sides
        if _is_name(variable) and not has_letters(value):
            ends = (Span(None, value, "()"), Span(value, None, "()"))
            return Several(tuple(replace(e, name=variable) for e in ends), "cup")
        return Relation(r"\ne", *sides)
    if len(sides) == 3 and signs[0] in ("<", r"\le") and signs[1] in ("<", r"\le"):
        pass
    elif len(sides) == 3 and signs[0] in (">", r"\ge") and signs[1] in (">", r"\ge"):
        sides, signs = sides[::-1], [_OPPOSITE[sign] for sign in signs[::-1]]
    elif len(sides) == 2 and signs[0] in _OPPOSITE:
        if signs[0] in (">", r"\ge"):
            sides, signs = sides[::-1], [_OPPOSITE[signs[0]]]
        if _is_name(sides[0]) and not has_letters(sides[1]):
            return Span(None, sides[1], "(" + _end(signs[0]), _bare(sides[0]))
        if _is_name(sides[1]) and not has_letters(sides[0]):
            return Span(sides[0], None, _start(signs[0]) + ")", _bare(sides[1]))
        return Relation(signs[0], *sides)
    else:
        raise Doubt("relations of several directions")
    low, variable, high = sides
    if not _is_name(variable) or has_letters(low) or has_letters(high):
        raise Doubt("an inequality that is not solved")
    return Span(low, high, _start(signs[0]) + _end(signs[1]), _bare(variable))


def _start(sign: str) -> str:
    return "(" if sign == "<" else "["


def _end(sign: str) -> str:
    return ")" if sign == "<" else "]"


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not _NO_NAME.match(text)


def _bare(name: str) -> str:
    return _BARE.sub("", name)


def has_letters(text: str) -> bool:
    """Whether letters stand in an expression."""
    return bool(letters(split_unit(text)[0]))
