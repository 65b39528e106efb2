"""The arms of a study: overrides of one configuration, by name and by grid.

Nothing here imports torch, so that a wrong file, name or key is told at once; each
refusal is one line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import areal_cppo
from areal_cppo.config.classes import config_classes, unknown_keys
from areal_cppo.errors import UserError

BASE = Path(areal_cppo.__file__).parent / "configs" / "triangles.yaml"

# What a run without servers and controller reads of a configuration.
_READ = (
    "actor.",
    "reward.",
    "augmentation.",
    "gconfig.n_samples",
    "gconfig.max_new_tokens",
    "gconfig.temperature",
    "train_dataset.batch_size",
    "rollout.max_head_offpolicyness",
)
_DECIDED = {
    "seed": "seeds",
    "total_train_steps": "steps",
    "actor.path": "tasks",
    "actor.view_seed": "seeds",
}
_NAME = re.compile(r"[A-Za-z0-9_.+-][A-Za-z0-9_.,=+-]*")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_document(path: Path) -> Any:
    """What a study's file holds.

    Raises
    ------
    UserError
        There is none, or it isn't YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"study: expected a YAML file, found {path}: {error.strerror}; "
            "examples/cppo/studies holds some"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.name}: expected YAML, found {reason}") from error


def read_arms(named: Any, grid: Any) -> dict[str, list[str]]:
    """Arms and their overrides, `key=value`.

    Parameters
    ----------
    named
        Name to overrides.
    grid
        Prefix to axes; an axis is a key of the configuration and its values. A prefix
        that is an arm's name starts from that arm. The points' names are
        `prefix,coef=0.1,grad=anchor`.

    Raises
    ------
    UserError
        No arm, a name that no folder can have, or a key that arms may not set.
    """
    arms: dict[str, list[str]] = {}
    for name, own in mapping("arms", named).items():
        check_name("arms", name)
        arms[name] = read_overrides(f"arms.{name}", own or {})
    for prefix, axes in mapping("grid", grid).items():
        check_name("grid", prefix)
        arms |= _points(prefix, arms.get(prefix, []), mapping(f"grid.{prefix}", axes))
    if not arms:
        raise UserError("arms: expected at least one, found none; name one: cppo: {}")
    return arms


def read_seeds(seeds: Any) -> list[int]:
    """A number of seeds, from 1, or the seeds themselves."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return list(range(1, seeds + 1))
    plain = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not plain or not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(
            "seeds: expected a number >= 1, or a list of different ones, found "
            f"{seeds!r}; correct it"
        )
    return seeds


def read_overrides(where: str, settings: Any) -> list[str]:
    """A mapping of configuration keys to values, as overrides."""
    made = []
    for key, value in mapping(where, settings).items():
        check_key(str(key), where)
        made.append(as_override(key, value))
    return made


def _points(
    prefix: str, start: list[str], axes: dict[str, Any]
) -> dict[str, list[str]]:
    """The product of the axes."""
    choices = []
    for key, axis in axes.items():
        where = f"grid.{prefix}.{key}"
        check_key(str(key), where)
        short = key.rpartition(".")[2]
        choices.append(
            [
                (f"{short}={label}", as_override(key, value))
                for label, value in _axis(where, axis)
            ]
        )
    points = {}
    for point in itertools.product(*choices):
        name = ",".join([prefix, *(label for label, _ in point)])
        check_name(f"grid.{prefix}", name)
        points[name] = start + [override for _, override in point]
    return points


def _axis(where: str, axis: Any) -> list[tuple[str, Any]]:
    """Labels and values: of a list, or of a mapping of labels to values."""
    if isinstance(axis, Mapping) and axis:
        return [(str(label), value) for label, value in axis.items()]
    if not isinstance(axis, list) or not axis:
        raise UserError(f"{where}: expected a list of values, found {axis!r}; give one")
    if any(isinstance(value, list | dict) for value in axis):
        raise UserError(
            f"{where}: expected plain values in a list, found {axis!r}; give lists and "
            "mappings a name each, as {anchor: [anchor]}"
        )
    return [(as_override("", value).strip("='"), value) for value in axis]


def check_key(key: str, where: str) -> None:
    """Refuse a key of the configuration that would change nothing in a study.

    Raises
    ------
    UserError
        The key is the study's own affair, or is not read.
    """
    if key in _DECIDED:
        raise UserError(
            f"{where}: expected a key that arms may set, found {key}, which the study "
            f"decides; set {_DECIDED[key]} instead"
        )
    if not any(key == r or r[-1] == "." and key.startswith(r) for r in _READ):
        raise UserError(
            f"{where}: expected a key that a run in one process reads "
            f"({', '.join(f'{r}*' if r[-1] == '.' else r for r in _READ)}), found "
            f"{key}; leave it out"
        )


def check_exist(arms: Mapping[str, Sequence[str]]) -> None:
    """Refuse overrides of keys that no configuration has.

    Raises
    ------
    UserError
        In the words of `load_config`, which imports AReaL first.
    """
    classes = config_classes()
    for arm, overrides in arms.items():
        for override in overrides:
            settings: Any = None
            for part in reversed(override.partition("=")[0].lstrip("+~").split(".")):
                settings = {part: settings}
            unknown = next(unknown_keys(settings, classes), None)
            if unknown is not None:
                raise UserError(f"arms.{arm}: {unknown}")


def as_override(key: str, value: Any) -> str:
    """`key=value` in hydra's grammar, for any value that YAML can hold."""
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        items = (f"{_name(key)}: {_literal(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_literal, value)) + "]"
    text = str(value)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _name(key: Any) -> str:
    if not isinstance(key, str) or not _PLAIN.fullmatch(key):
        raise UserError(f"expected a plain word as key, found {key!r}; correct it")
    return key


def mapping(where: str, value: Any) -> dict[str, Any]:
    """The value, if it has keys and values."""
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: expected keys and values, found {value!r}; correct it"
        )
    return value


def check_name(where: str, name: Any) -> None:
    """Refuse a name that no folder can have."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: expected a name of letters, digits and .,=+-_ (it names a "
            f"folder), found {name!r}; choose another"
        )


def names(where: str, names: Any, known: list[str]) -> list[str]:
    """The names, if they are some of the known ones, each once."""
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
