"""Fields of a JSON object, read with one line for each mistake.

Every error names the field by its path in the file, as `server.decode[2]`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from math import isfinite
from typing import Any

from areal_cppo.errors import UserError

_SHOWN = 60  # characters of a wrong value


class Fields:
    """A JSON object at `path`, of which each field is taken once.

    Parameters
    ----------
    value
        What the file holds there.
    file
        What errors call the file.
    path
        The fields that lead to the object, as `server`; empty for the whole file.

    Raises
    ------
    UserError
        From every method, if the field is not what it must be.
    """

    def __init__(self, value: Any, file: str, path: str = ""):
        self._file, self._path = file, path
        if not isinstance(value, dict):
            raise UserError(
                f"{self.path}: expected an object of named fields, found "
                f"{show(value)}; "
                "see docs/throughput.md for the format"
            )
        self._left = dict(value)

    @property
    def path(self) -> str:
        """The object as errors call it."""
        return f"{self._file}: {self._path}" if self._path else self._file

    def name(self, key: str) -> str:
        """The field as errors call it."""
        return f"{self._file}: {self._inside(key)}"

    def take(self, key: str, default: Any = ...) -> Any:
        """The field's value; without a default it has to be there."""
        if key not in self._left and default is ...:
            raise UserError(
                f"{self.path}: expected the field {key!r}, found none; add it"
            )
        return self._left.pop(key, default)

    def inner(self, key: str, default: Any = ...) -> Fields:
        """An object within."""
        return Fields(self.take(key, default), self._file, self._inside(key))

    def number(
        self, key: str, default: Any = ..., *, least: float = 0.0, above: bool = False
    ) -> float:
        """A finite number, >= `least`, or > `least` if `above`."""
        return number(self.take(key, default), self.name(key), least, above)

    def whole(self, key: str, default: Any = ..., *, least: int = 1) -> int:
        """A whole number >= `least`."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{self.name(key)}: expected a whole number >= {least}, found "
                f"{show(value)}; correct it"
            )
        return value

    def flag(self, key: str, default: Any = ...) -> bool:
        """true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise UserError(
                f"{self.name(key)}: expected true or false, found {show(value)}; "
                "correct it"
            )
        return value

    def choice(self, key: str, among: Collection[str]) -> str:
        """One of some words."""
        value = self.take(key)
        if value not in among:
            raise UserError(
                f"{self.name(key)}: expected one of {', '.join(sorted(among))}, found "
                f"{show(value)}; correct it"
            )
        return value

    def finish(self) -> None:
        """Nothing may be left over: it would be a misspelt field."""
        if self._left:
            raise UserError(
                f"{self.path}: expected no other fields, found "
                f"{', '.join(map(repr, sorted(self._left)))}; correct or remove"
            )

    def _inside(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def number(value: Any, name: str, least: float = 0.0, above: bool = False) -> float:
    """A finite number in range; see `Fields.number`."""
    sign = ">" if above else ">="
    right = not isinstance(value, bool) and isinstance(value, int | float)
    if right and isfinite(value) and (value > least if above else value >= least):
        return float(value)
    raise UserError(
        f"{name}: expected a number {sign} {least:g}, found {show(value)}; correct it"
    )


def show(value: Any) -> str:
    """A wrong value as the file has it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
