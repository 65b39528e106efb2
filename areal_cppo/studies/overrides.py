"""Arms are overrides of one configuration: which keys they may set, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import areal_cppo
from areal_cppo.errors import UserError

BASE = Path(areal_cppo.__file__).parent / "configs" / "triangles.yaml"

# What a run without servers and controller reads of a configuration.
_READ = (
    "actor.",
    "reward.",
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
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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


def load_run_config(arm: Sequence[str], *, seed: int, steps: int, checkpoint: Path):
    """The configuration of a run (`CPPOConfig`): the base, what the study decides, and
    an arm's overrides.

    Raises
    ------
    UserError
        An unknown key, a value out of range, or a setting that needs more than one
        process.
    """
    from areal_cppo.config.experiment import load_config

    decided = {"seed": seed, "total_train_steps": steps, "actor.path": checkpoint}
    own = [as_override(key, value) for key, value in decided.items()]
    config = load_config(BASE, [*own, *arm])
    actor = config.actor
    for key, wrong in (
        ("actor.backend", actor.backend != "fsdp:d1p1t1"),
        ("actor.use_lora", actor.use_lora),
        ("actor.kl_ctl", actor.kl_ctl != 0),
    ):
        if wrong:
            raise UserError(
                f"{key}: expected the value of {BASE.name}, found another; a study "
                "trains all weights in one process, without a reference policy"
            )
    return config
