"""From a composed YAML to the dataclasses, every value checked on the way.

OmegaConf checks types, `areal_fields` values, and each dataclass itself; whoever
refuses one, the key is told in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from areal.api.cli_args import to_structured_cfg
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from areal_cppo.checks import Rule, field_refusal, refusal
from areal_cppo.config import areal_fields
from areal_cppo.errors import Problems

Config = TypeVar("Config")

# Blocks and fields that are alike have the rows of the last one named.
_ALIKE = tuple(
    (re.compile(pattern), row)
    for pattern, row in (
        (r"\.\d+(?=\.|$)", ".*"),
        (r"^ref\.", "actor."),
        (r"^rollout(?=\.scheduling_)", "actor"),
        (r"\.adv_norm\.", ".reward_norm."),
        (r"^eval_gconfig\.", "gconfig."),
        (r"^valid_dataset\.", "train_dataset."),
        (r"^evaluator(?=\.freq_)", "saver"),
        (r"^recover(?=\.freq_(epochs|steps))", "saver"),
        (r"^.+\.(experiment_name|trial_name)$", r"\1"),
        (r"^.+\.fileroot$", "cluster.fileroot"),
    )
)
# Fields that AReaL lets be null and a run can't.
_NEEDED = ("actor.optimizer", "scheduler.type")

_ROWS = {
    f"{block}.{name}".lstrip("."): row
    for block, rows in areal_fields.BLOCKS.items()
    for name, row in rows.items()
} | {name: row for name, row in areal_fields.NEWER.items() if row is not None}


def row_name(key: str) -> str:
    """The name of a key's row, if it has one: those of alike fields are the same."""
    for pattern, row in _ALIKE:
        key = pattern.sub(row, key)
    return key


def row_of(key: str) -> tuple[Rule, str] | None:
    """What is expected of a field of the configuration, and how to mend it.

    Parameters
    ----------
    key
        Its full name, with the places of lists: `actor.scheduling_spec.0.cpu`.
    """
    row = _ROWS.get(row_name(key))
    return row if row is None or isinstance(row, tuple) else (row, "correct it")


def leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Full name and value of each field of nested mappings and lists."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        full = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping | list | tuple):
            yield from leaves(value, full)
        else:
            yield full, value


def wrong_values(values: Mapping[str, Any]) -> Iterator[tuple[str, ValueError]]:
    """The fields whose rows don't accept their values, and what is to be said of each.

    Parameters
    ----------
    values
        The whole configuration as nested dicts and lists, interpolations resolved.
    """
    for key, value in leaves(values):
        unset = value == MISSING or (value is None and key not in _NEEDED)
        row = None if unset else row_of(key)
        if row is not None and not row[0].accepts(value):
            yield key, refusal(key, row[0].describe(), value, row[1])


def _wrong_settings(node: DictConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """The same of this package's fields, which say themselves what they accept."""
    kind = OmegaConf.get_type(node)
    for field in fields(kind) if is_dataclass(kind) else ():
        key = f"{path}{field.name}"
        if OmegaConf.is_missing(node, field.name):
            continue
        value, check = node[field.name], field.metadata.get("check")
        if isinstance(value, DictConfig):
            yield from _wrong_settings(value, f"{key}.")
        elif check is not None:
            plain = (
                OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            )
            if not check.accepts(plain):
                yield key, field_refusal(field, key, plain)


def _written(keys: Mapping[str, Any], merged: DictConfig) -> list[str]:
    """Those of the keys that are not taken from another by `${...}`; at least one."""
    written = {
        key
        for key, value in leaves(OmegaConf.to_container(merged, resolve=False))
        if not (isinstance(value, str) and "${" in value)
    }
    return [key for key in keys if key in written] or list(keys)[:1]


def build(composed: DictConfig, cls: type[Config]) -> Config:
    """The dataclass that a composed configuration describes.

    Raises
    ------
    ValueError, OmegaConfBaseException
        A key is unknown, or a value is wrong.
    """
    try:
        merged = to_structured_cfg(composed, cls)
    except ConfigKeyError:
        raise
    except OmegaConfBaseException as error:
        raise _with_key(error, composed, cls) from error
    return instantiate(merged)


def instantiate(merged: DictConfig) -> Any:
    """The dataclass of a structured config; raises as `build` does."""
    wrong = dict(wrong_values(OmegaConf.to_container(merged, resolve=True)))
    wrong |= dict(_wrong_settings(merged))
    if wrong:
        raise Problems([str(wrong[key]) for key in _written(wrong, merged)])
    try:
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException:
        raise
    except ValueError as error:
        said = _said_below(merged)
        raise error if said is None else ValueError(said) from error


def _with_key(error: Exception, composed: DictConfig, cls: type) -> Exception:
    """The error, or one that names the key if OmegaConf's doesn't name it in full."""
    whole = (error.full_key or "").partition("[")[0]
    if whole and OmegaConf.select(composed, whole) is not None:
        return error
    blank = OmegaConf.structured(cls)

    def visit(values: dict[str, Any], prefix: str) -> Exception | None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            try:
                if isinstance(value, dict):
                    if OmegaConf.select(blank, key) is None:
                        continue  # a block that may be left out: OmegaConf's own words
                    said = visit(value, f"{key}.")
                    if said is not None:
                        return said
                else:
                    OmegaConf.update(blank, key, value)
            except (OmegaConfBaseException, AssertionError) as found:
                if isinstance(OmegaConf.select(blank, key), DictConfig):
                    return refusal(key, "keys and values", value, "correct it")
                return ValueError(f"{key}: {str(found).partition(chr(10))[0]}")
        return None

    return visit(OmegaConf.to_container(composed), "") or error


def _said_below(node: DictConfig | ListConfig, path: str = "") -> str | None:
    """What the deepest dataclass below the root refuses, its key told in full."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue  # what is taken from elsewhere is told there
        inner = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".strip(".")
        if isinstance(node[key], DictConfig | ListConfig):
            said = _said_below(node[key], inner)
            if said is not None:
                return said
    if path and isinstance(OmegaConf.get_type(node), type):
        try:
            OmegaConf.to_object(node)
        except ValueError as error:
            return _placed(path, OmegaConf.get_type(node), str(error))
    return None


def _placed(path: str, cls: type, text: str) -> str:
    """What the dataclass at a path says of itself, under the path's full name.

    Our own begin with the last parts of it, AReaL's with a field's name or none.
    """
    if path == "ref":  # of the actor's class
        text = re.sub(r"\bactor\.", "ref.", text)
    parts = path.split(".")
    for first in range(len(parts)):
        last = ".".join(parts[first:])
        if text.startswith((f"{last}.", f"{last}:")):
            return path + text.removeprefix(last)
    begins = re.match(r"\w*", text).group()
    known = hasattr(cls, "__dataclass_fields__") and begins in {
        field.name for field in fields(cls)
    }
    return f"{path}.{text}" if known else f"{path}: {text}"
