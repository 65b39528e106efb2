"""Fields of a JSON document: their types, and one line for each mistake.

The types are pydantic's, as annotations of plain dataclasses: what is read from a
document is checked, what is made in code is not. A line names the field by its path in
the file, as `server.decode[2]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from areal_cppo.errors import UserError

_SHOWN = 60  # characters of a wrong value
_REFUSED = "refused"


class Strict:
    """Base of dataclasses that take no other fields than their own."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def refusal(
    expected: str, mend: str = "correct it", **found: str
) -> PydanticCustomError:
    """What a validator raises of its value.

    Parameters
    ----------
    expected, mend
        What would be right, and what to do.
    found
        `at`: the way from the value to the wrong part of it, as `[1][0]`; `found`: how
        that is shown.
    """
    return PydanticCustomError(_REFUSED, expected, {"mend": mend, "at": ""} | found)


def checked(kind: Any, expected: str, **limits: Any) -> Any:
    """A type that nothing is converted to, and what its refusal says was expected."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise refusal(expected) from error

    return Annotated[kind, Field(strict=True, **limits), WrapValidator(check)]


Count = checked(int, "a whole number >= 1", ge=1)
NotNegative = checked(float, "a number >= 0", ge=0, allow_inf_nan=False)
Positive = checked(float, "a number > 0", gt=0, allow_inf_nan=False)
AtLeastOne = checked(float, "a number >= 1", ge=1, allow_inf_nan=False)
Flag = checked(bool, "true or false")
Texts = checked(dict[str, str], "an object of texts (command, machine, date)")


def read_as(adapter: TypeAdapter, document: Any, name: str) -> Any:
    """What the adapter makes of a document; `name` is what errors call that.

    Raises
    ------
    UserError
        A field is missing, unknown or out of range.
    """
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        raise UserError(_line(error.errors(), name)) from error


def show(value: Any) -> str:
    """A wrong value as the file has it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _line(errors: list[ErrorDetails], file: str) -> str:
    """Of the first mistake."""
    kind, place = errors[0]["type"], errors[0]["loc"]
    found, mend = show(errors[0]["input"]), "see docs/throughput.md for the format"
    expected, at = "an object of named fields", ""
    if kind == _REFUSED:
        known = {"found": found} | errors[0]["ctx"]
        expected, found, mend = errors[0]["msg"], known["found"], known["mend"]
        at = known["at"]
    elif kind == "missing":
        *place, key = place
        expected, found, mend = f"the field {key!r}", "none", "add it"
    elif kind == "unexpected_keyword_argument":
        *place, _ = place
        others = [e["loc"][-1] for e in errors if e["type"] == kind]
        found = ", ".join(map(repr, sorted(others)))
        expected, mend = "no other fields", "correct or remove"
    return f"{_path(file, place)}{at}: expected {expected}, found {found}; {mend}"


def _path(file: str, place: Sequence[str | int]) -> str:
    """The field at a place as errors call it."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    inside = "".join(steps).removeprefix(".")
    return f"{file}: {inside}" if inside else file
