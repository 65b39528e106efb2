"""Which run it was: name, date, model, data and machine, as far as its folder tells."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from areal_cppo.config import TASK_NAMES
from areal_cppo.config.keys import is_hub_name
from areal_cppo.folder import LIFE, read_lines
from areal_cppo.report.page import number
from areal_cppo.report.runs import RunContents, is_number

_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")
_CLUSTER = "nodes", "gpus_per_node"
_DATA_FILE = re.compile(r"\.(jsonl?|parquet|csv)$")


class Part(NamedTuple):
    """One thing that a run is known by; `short`, for a title, if it is recorded."""

    label: str
    words: str
    short: str | None


def identity(run: RunContents) -> list[Part]:
    """Name, date, model, data and machine; what isn't recorded is said to be so."""
    return [_name(run), _date(run), _model(run), _data(run), _machine(run)]


def page_title(run: RunContents, kind: str) -> str:
    """What a browser shows of the page: all that is known, the name first."""
    return ", ".join([*(p.short for p in identity(run) if p.short), kind])


def setting(config: dict[str, Any], name: str) -> Any:
    """A setting by its dotted name; `None` where there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def hub_name(path: str) -> str | None:
    """What a model is called on the hub, if it is from there."""
    cached = _HUB_CACHE.search(path)
    if cached:
        return "/".join(cached.groups())
    return path if is_hub_name(path) else None


def dataset_name(path: Any) -> str | None:
    """What a dataset is called on the hub, if it is from there."""
    known = isinstance(path, str) and is_hub_name(path) and not _DATA_FILE.search(path)
    return path if known else None


def is_synthetic(config: dict[str, Any]) -> bool:
    return setting(config, "data.source") in TASK_NAMES


def _name(run: RunContents) -> Part:
    names = [run.config.get(f"{key}_name") for key in ("experiment", "trial")]
    name = "/".join(str(name) for name in names if name)
    name = name or f"in the folder {run.folder.resolve().name}"
    return Part("Run", name, f"Run {name}")


def _date(run: RunContents) -> Part:
    """When it was first begun: the event's time, else that of the first step's end."""
    events = read_lines(run.folder / "events.jsonl")
    started = next((e.get("time") for e in events if e.get("event") == LIFE[0]), None)
    words = ""
    if not is_number(started):
        started = next((r["time"] for r in run.metrics if is_number(r.get("time"))), 0)
        words = ", end of its first recorded step"
    try:
        moment = datetime.fromtimestamp(started, UTC)
    except (OverflowError, OSError, ValueError):
        started = 0
    if not started:
        missing = "Not recorded: neither events.jsonl nor metrics.jsonl has a time"
        return Part("Date", missing, None)
    day = f"{moment.day} {moment:%B %Y}"
    return Part("Date", f"{day}, {moment:%H:%M} UTC{words}", day)


def _model(run: RunContents) -> Part:
    path = setting(run.config, "actor.path")
    if not isinstance(path, str) or not path:
        return Part("Model", "Not recorded: config.yaml has no actor.path", None)
    name = hub_name(path)
    *_, task, folder = ("", *Path(path).parts)
    if not name and is_synthetic(run.config) and task in TASK_NAMES:
        name = f"tiny model of the task {task}"
        name += "" if folder == "checkpoint" else f" ({folder})"
    name = name or f"in the folder {folder}"
    return Part("Model", name, name)


def _data(run: RunContents) -> Part:
    if is_synthetic(run.config):
        name = f"synthetic task {setting(run.config, 'data.source')}"
        return Part("Data", name, name)
    path = setting(run.config, "train_dataset.path")
    if not isinstance(path, str) or not path:
        return Part("Data", "Not recorded: config.yaml has no train_dataset.path", None)
    name = dataset_name(path) or Path(path).name
    split = setting(run.config, "train_dataset.split")
    return Part("Data", f"{name}{f', split {split}' if split else ''}", name)


def _machine(run: RunContents) -> Part:
    """As the last start has recorded it, with what the settings ask for."""
    events = read_lines(run.folder / "events.jsonl")
    told = [e["machine"] for e in events if isinstance(e.get("machine"), str)]
    nodes, gpus = (setting(run.config, f"cluster.n_{n}") for n in _CLUSTER)
    asked = ""
    if is_number(nodes) and is_number(gpus):
        asked = f"{number(nodes)} node{'s' * (nodes != 1)}, "
        asked += f"{number(gpus)} GPU{'s' * (gpus != 1)} each" if gpus else "CPUs only"
    if told:
        words = f"{told[-1]}{asked and f'; configured for {asked}'}"
        return Part("Machine", words, told[-1])
    missing = f"Not recorded; configured for {asked}" if asked else "Not recorded"
    return Part("Machine", missing, None)
