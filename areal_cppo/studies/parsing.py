"""Checks on the words of a study's file; each refusal is one line."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from areal_cppo.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_.+-][A-Za-z0-9_.,=+-]*")


def made(cls: type, document: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a mapping; an unknown key gets its line."""
    known = [item.name for item in fields(cls)]
    for key in document:
        if key not in known:
            near = get_close_matches(str(key), known, n=3, cutoff=0.5) or known
            raise UserError(
                f"{prefix}{key}: expected a key of a study, found {key!r}; did you "
                f"mean {', '.join(near)}?"
            )
    return cls(**document)


def mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: expected keys and values, found {value!r}; correct it"
        )
    return value


def names(where: str, names: Any, known: list[str]) -> list[str]:
    plain = (
        isinstance(names, list) and names and len(set(map(str, names))) == len(names)
    )
    unknown = [name for name in names if name not in known] if plain else [names]
    if unknown:
        raise UserError(
            f"{where}: expected some of {', '.join(known) or 'none'}, each once, found "
            f"{unknown[0]!r}; correct it"
        )
    return names


def check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: expected a name of letters, digits and .,=+-_ (it names a "
            f"folder), found {name!r}; choose another"
        )
