"""Which keys a configuration has, read from the sources of its dataclasses.

To import them is to import torch; here nothing is run.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_ROOT = "CPPOConfig"
# AReaL has words of its own for keys that it once had.
_REMOVED = "behave_imp_weight_"

# The fields of a class, each with the class of its value, where it has a single one.
Fields = dict[str, str | None]


def config_classes() -> dict[str, Fields]:
    """Every class of the sources that may hold dataclasses of a configuration.

    Inherited fields come first, as in a dataclass. Empty without AReaL.
    """
    areal = importlib.util.find_spec("areal")  # does not import it
    if areal is None or areal.origin is None:
        return {}
    here = Path(__file__).parent
    files = [Path(areal.origin).parent / "api" / "cli_args.py"]
    files += [*here.glob("*.py"), *here.parent.glob("core/*.py")]
    classes: dict[str, Fields] = {}
    nodes = {
        node.name: node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }

    def fields_of(name: str) -> Fields:
        if name not in classes:
            found: Fields = {}
            for base in nodes[name].bases:
                if isinstance(base, ast.Name) and base.id in nodes:
                    found |= fields_of(base.id)
            classes[name] = found | _own_fields(nodes[name])
        return classes[name]

    for name in nodes:
        fields_of(name)
    return classes


def _own_fields(node: ast.ClassDef) -> Fields:
    return {
        line.target.id: _class_of(line.annotation)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    }


def _class_of(annotation: ast.expr) -> str | None:
    """The name in `Name` or `Name | None`; `None` for any other annotation."""
    words = [word.strip() for word in ast.unparse(annotation).split("|")]
    words = [word for word in words if word != "None"]
    return words[0] if len(words) == 1 and words[0].isidentifier() else None


def unknown_keys(
    settings: dict[str, Any],
    classes: dict[str, Fields],
    owner: str = _ROOT,
    prefix: str = "",
) -> Iterator[str]:
    """What is to be said of each key that no dataclass has.

    Parameters
    ----------
    settings
        Nested, of an object of the class `owner`.
    classes
        Of `config_classes`; where `owner` isn't among them nothing is said.
    prefix
        Of the keys' full names.
    """
    known = classes.get(owner)
    if known is None:
        return
    for key, value in settings.items():
        if str(key).startswith(_REMOVED):
            continue
        if key not in known:
            ends = list(ending_in(str(key), classes)) if not prefix else []
            yield unknown_key(f"{prefix}{key}", str(key), owner, list(known), ends)
        elif isinstance(value, dict) and known[key] is not None:
            yield from unknown_keys(value, classes, known[key], f"{prefix}{key}.")


def ending_in(
    key: str, classes: dict[str, Fields], owner: str = _ROOT, prefix: str = ""
) -> Iterator[str]:
    """Full names of the keys below the top that are called `key`."""
    for name, kind in classes[owner].items():
        if name == key and prefix:
            yield f"{prefix}{name}"
        elif kind in classes and name != "ref":
            yield from ending_in(key, classes, kind, f"{prefix}{name}.")


def unknown_key(
    full_key: str, key: str, owner: str, known: Sequence[str], ends: Sequence[str] = ()
) -> str:
    """Say which key is unknown, and which of its neighbours, or of those that end in
    it, may have been meant."""
    near = get_close_matches(key, known, n=3, cutoff=0.5) or ends[:3] or known[:12]
    return (
        f"{full_key}: expected a key of {owner}, found {key!r}; "
        f"did you mean {', '.join(near)}?"
    )
