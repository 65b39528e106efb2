"""Settings of runs beside each other, without where a machine keeps things."""

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

# Names and places of a run, and what only follows from other settings.
_LEFT_OUT = re.compile(
    r"(^|\.)(experiment_name|trial_name|fileroot|run_dir|nfs_record_root|"
    r"tokenizer_path|model_path)$|^(stats_logger|vllm)\.|_key$|password|secret|_token$"
)


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; items of lists by their number.

    Lists of plain values stay as they are.
    """
    if isinstance(settings, dict) and settings:
        items = settings.items()
    elif isinstance(settings, list) and any(isinstance(v, dict) for v in settings):
        items = enumerate(settings)
    else:
        return {prefix: settings} if prefix else {}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def differing(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all configurations that are known.

    Parameters
    ----------
    configs
        Flat; an empty one is of a run whose settings are not recorded.

    Returns
    -------
    list
        Name and, of each configuration, the value in words: "-" where there is none.
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = []
    for key in keys:
        if _LEFT_OUT.search(key):
            continue
        values = [_text(config[key]) if key in config else "-" for config in configs]
        if len({v for v, config in zip(values, configs, strict=True) if config}) > 1:
            rows.append((key, _without_places(values)))
    return rows


def distinct_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they can be told apart by."""
    parts = [PurePosixPath(path).parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        others = [other for other in parts if other != own]
        lengths = range(1, len(own))
        ends = (own[-n:] for n in lengths if all(o[-n:] != own[-n:] for o in others))
        return PurePosixPath(*next(ends, own)).as_posix()

    return [name(own) for own in parts]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _without_places(values: list[str]) -> list[str]:
    """Of local paths only the ends."""
    places = [at for at, v in enumerate(values) if PurePosixPath(v).is_absolute()]
    names = distinct_names([values[at] for at in places]) if places else []
    return [
        names[places.index(at)] if at in places else value
        for at, value in enumerate(values)
    ]
