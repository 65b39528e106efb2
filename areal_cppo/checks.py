"""Checks on a user's settings, declared next to the fields they guard.

A dataclass field made by :func:`setting` carries its help and its check in its
metadata; :func:`check_fields`, called from ``__post_init__``, applies them all. Every
refusal is one ``ValueError`` line: field, expected, found, and how to mend it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def refusal(field: str, expected: str, found: Any, fix: str) -> ValueError:
    """Build the error for a bad setting.

    Parameters
    ----------
    field
        Path of the setting, such as ``cpl.top_fraction``.
    expected
        What would have been right, such as ``a number in (0, 1]``.
    found
        The offending value.
    fix
        What the user should do.

    Returns
    -------
    ValueError
        A ``ValueError`` (not raised) whose message is a single line.
    """
    shown = " ".join(f"{found!r} ({type(found).__name__})".split())
    return ValueError(f"{field}: expected {expected}, found {shown}; {fix}")


def _is_number(value: Any) -> bool:
    """True for a finite int or float; a bool is not a number here."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


class Rule:
    """What a setting, or an argument, accepts."""

    def describe(self) -> str:
        """Name the accepted values, as in ``a number in (0, 1]``."""
        raise NotImplementedError

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is one of them."""
        raise NotImplementedError

    def normalise(self, value: Any) -> Any:
        """Return an accepted value as it is kept."""
        return value


@dataclass(frozen=True)
class Number(Rule):
    """A finite number in an interval; ints are accepted and become floats.

    Attributes
    ----------
    low, high
        The ends of the interval, ``None`` for unbounded.
    low_open
        Whether ``low`` itself is excluded.
    optional
        Whether ``None`` is accepted as well.
    integer
        Whether only ints are accepted (and stay ints).
    odd
        Whether even values are refused.
    """

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    optional: bool = False
    integer: bool = False
    odd: bool = False

    def describe(self) -> str:
        noun = (
            f"{'an odd' if self.odd else 'an'} integer" if self.integer else "a number"
        )
        if self.low is not None and self.high is not None:
            noun += f" in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}]"
        elif self.low is not None:
            noun += f" {'>' if self.low_open else '>='} {self.low:g}"
        return f"{noun} or null" if self.optional else noun

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if not _is_number(value) or (self.integer and not isinstance(value, int)):
            return False
        if self.odd and value % 2 == 0:
            return False
        above = self.low is None or value > self.low
        at_low = not self.low_open and value == self.low
        return (above or at_low) and (self.high is None or value <= self.high)

    def normalise(self, value: Any) -> Any:
        return value if value is None or self.integer else float(value)


@dataclass(frozen=True)
class Range(Rule):
    """A pair ``[low, high]`` of numbers, each within ``bounds``, low <= high."""

    bounds: Number

    def describe(self) -> str:
        return f"[low, high] with low <= high, each {self.bounds.describe()}"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        if len(value) != 2 or not all(self.bounds.accepts(end) for end in value):
            return False
        return value[0] <= value[1]

    def normalise(self, value: Any) -> tuple[float, float]:
        return (float(value[0]), float(value[1]))


@dataclass(frozen=True)
class Bool(Rule):
    """True or false, and nothing that merely counts as one of them."""

    def describe(self) -> str:
        return "true or false"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Choice(Rule):
    """One of a few names."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return "one of " + ", ".join(self.names)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names


@dataclass(frozen=True)
class Subset(Rule):
    """A list of at least one of a few names, none twice."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return "a non-empty list, without repeats, of " + ", ".join(self.names)

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            return False
        known = all(isinstance(name, str) and name in self.names for name in value)
        return known and 0 < len(value) == len(set(value))

    def normalise(self, value: Sequence[str]) -> list[str]:
        return list(value)


@dataclass(frozen=True)
class Instance(Rule):
    """An object of one class, such as a nested config."""

    cls: type

    def describe(self) -> str:
        return f"a {self.cls.__name__}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.cls)


COUNT = Number(low=1, integer=True)
POSITIVE = Number(low=0, low_open=True)
FRACTION = Number(low=0, high=1)
POSITIVE_FRACTION = Number(low=0, high=1, low_open=True)


def check_argument(name: str, value: Any, check: Rule, fix: str) -> None:
    """Refuse an argument of a function that ``check`` does not accept.

    Parameters
    ----------
    name
        Of the argument.
    value, check, fix
        As :func:`refusal` and :func:`setting` take them.

    Raises
    ------
    ValueError
        One line: expected, found, and the fix.
    """
    if not check.accepts(value):
        raise refusal(name, check.describe(), value, fix)


def check_chunk_size(rows: int) -> None:
    """Refuse to compute no rows at a time."""
    check_argument("chunk_size", rows, COUNT, "pass 1 or more")


def setting(default: Any, check: Rule, help: str) -> Any:
    """Declare a dataclass field with its default, its check and its help.

    Parameters
    ----------
    default
        The default; a list or a class stands for a fresh copy or instance of it in each
        object.
    check
        What the field accepts.
    help
        One line for the user, without a trailing full stop.

    Returns
    -------
    Any
        A ``dataclasses.field``.
    """
    metadata = {"help": help, "check": check}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def field_refusal(field: dataclasses.Field, name: str, value: Any) -> ValueError:
    """Make the error of a :func:`setting` whose check refuses a value."""
    fix = f"give it such a value ({field.metadata['help']})"
    if field.default is not dataclasses.MISSING:
        fix = f"give it such a value, by default {field.default!r}"
    return refusal(name, field.metadata["check"].describe(), value, fix)


def check_fields(instance: Any, prefix: str) -> None:
    """Check every :func:`setting` of a dataclass and normalise it in place.

    Parameters
    ----------
    instance
        The dataclass instance, frozen or not.
    prefix
        What precedes a field's name in an error, such as ``cpl.``.

    Raises
    ------
    ValueError
        On the first field whose check refuses its value.
    """
    for field in dataclasses.fields(instance):
        check = field.metadata.get("check")
        if check is None:
            continue
        value = getattr(instance, field.name)
        if not check.accepts(value):
            raise field_refusal(field, prefix + field.name, value)
        # A frozen dataclass refuses ordinary assignment, even from __post_init__.
        object.__setattr__(instance, field.name, check.normalise(value))
