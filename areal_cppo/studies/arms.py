"""The arms of a study: those with a name, and the points of its grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.studies.overrides import as_override, check_key
from areal_cppo.studies.parsing import check_name, mapping


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
