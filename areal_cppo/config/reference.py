"""Every key of the configuration: type, bounds, default and meaning.

From the dataclasses, AReaL's and this package's, and `areal_fields`: what a run checks
is what is told here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

import areal_cppo
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.reading import row_of
from areal_cppo.errors import UserError

# No run reads what is inside; `areal_fields` says of each whether it may be set.
_OTHER_ENGINES = ("critic", "teacher", "vllm", "actor.megatron", "actor.archon")


@dataclass(frozen=True)
class Key:
    """A key, or a block of them (`type` is then `block`).

    `bounds` is empty where the type says it all; `default` is YAML.
    """

    name: str
    type: str
    bounds: str
    default: str
    meaning: str
    of: str  # `areal_cppo` or `areal`


def keys(cls: type = CPPOConfig, prefix: str = "") -> Iterator[Key]:
    """The keys of a configuration class in their order, blocks before what is in them.

    Blocks of engines that CPPO doesn't run on are named, and not opened.
    """
    hints = get_type_hints(cls)
    for field in fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        block = next((a for a in (hint, *get_args(hint)) if is_dataclass(a)), None)
        check, row = field.metadata.get("check"), row_of(name)
        bounds = check.describe() if check else row[0].describe() if row else ""
        listed = get_origin(hint) in (list, dict, tuple) or block is None
        yield Key(
            name,
            _type(hint) if listed else "block",
            bounds if listed else "",
            _default(field, listed),
            _meaning(field),
            _owner(cls, field.name),
        )
        if block is not None and name not in _OTHER_ENGINES and name != "ref":
            inside = f"{name}.*." if listed else f"{name}."
            yield from keys(block, inside)


def find(wanted: str) -> list[Key]:
    """The key of a name, and what is in it; or all keys that have the word in theirs;
    all for an empty one.

    Places in lists may be numbers or `*`.

    Raises
    ------
    UserError
        There is none.
    """
    name = re.sub(r"\.\d+(?=\.|$)", ".*", wanted)
    every = list(keys())
    if not wanted:
        return every
    found = [key for key in every if f"{key.name}.".startswith(f"{name}.")]
    found = found or [key for key in every if wanted in key.name]
    if not found:
        names = [key.name for key in every]
        near = get_close_matches(name, names, n=3, cutoff=0.6) or get_close_matches(
            name.rpartition(".")[2], names, n=3, cutoff=0.3
        )
        raise UserError(
            f"expected a key of the configuration, or a part of one, found {wanted!r}; "
            + (f"did you mean {', '.join(near)}?" if near else "config lists them all")
        )
    return found


def _meaning(field: Any) -> str:
    """What the field's `help` says; not what AReaL's says of characters in names, which
    it doesn't hold to."""
    words = " ".join(str(field.metadata.get("help", "")).split())
    return re.sub(r" \(no '[^)]*\)", "", words)


def _type(hint: Any) -> str:
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    words = re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))
    words = re.sub(r"Optional\[(.*)\]", r"\1 | None", words)
    return words.replace("None", "null").replace("NoneType", "null")


def _default(field: Any, listed: bool) -> str:
    if not listed:
        return "null" if field.default is None else ""
    value = field.default
    if field.default_factory is not MISSING:
        value = field.default_factory()
    if value is MISSING or value == "???":
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}"
    if isinstance(value, list | tuple) and any(map(is_dataclass, value)):
        return f"{len(value)}, as below"
    if isinstance(value, list | dict | tuple):
        value = list(value) if isinstance(value, tuple) else value
        return re.sub(r"'([\w.-]+)'", r"\1", str(value))
    if isinstance(value, str) and value.startswith("/storage"):
        return "of AReaL's own cluster"
    return str(value) if value != "" else '""'


def _owner(cls: type, name: str) -> str:
    """Whose class declares the field."""
    declaring = next(
        c for c in cls.__mro__ if name in vars(c).get("__annotations__", {})
    )
    own = declaring.__module__.partition(".")[0]
    return own if own == areal_cppo.__name__ else "areal"
