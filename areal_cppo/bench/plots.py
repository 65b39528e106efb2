"""Pictures of what `bench train-step` wrote: PNG, one a file of numbers.

And `picture`, with which all of bench draws.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from areal_cppo.errors import UserError
from areal_cppo.report import figure_style as fs

_LABELS = {
    "positive": "share of responses with a positive advantage",
    "response": "mean length of a response (tokens)",
    "image": "side of an image (pixels)",
    "group": "responses a prompt",
}
_NAMES = {"a": "AReaL's GRPO", "c": "GRPO", "d": "CPPO"}
_TITLE = {"x": 0.01, "ha": "left", "fontsize": 11}
_DPI = 150


@contextmanager
def picture(
    path: Path, title: str, size: tuple[float, float], columns: int, **layout: Any
) -> Iterator[Sequence[Axes]]:
    """Panels side by side, to draw on; written to `path` at the end.

    Parameters
    ----------
    size
        Width and height, inches.
    layout
        As `Figure.subplots` takes it.
    """
    with fs.style():
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, **_TITLE)
        yield figure.subplots(1, columns, **layout)
        figure.savefig(path, dpi=_DPI)


def plot_files(files: Sequence[str], out: str) -> list[Path]:
    """Draw each file into the folder `out`, made if need be; the pictures.

    Raises
    ------
    UserError
        A file is not what `bench train-step --json` writes, or holds no numbers yet.
    """
    documents = [(Path(name), _read(Path(name))) for name in files]
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"-o: expected a folder that can be made, found {out}: {error.strerror}; "
            "name another"
        ) from error
    pictures = []
    for path, document in documents:
        picture = folder / f"{path.stem}.png"
        with fs.style():
            draw(document).savefig(picture, dpi=_DPI)
        pictures.append(picture)
    return pictures


def _read(path: Path) -> dict[str, Any]:
    expected = "expected a file that areal-cppo bench train-step --json wrote"
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{expected}, found {path}: {error}; name another") from error
    if not isinstance(document, dict) or not {"arms", "sweep"} & document.keys():
        raise UserError(f"{expected}, found {path}, which is none; name another")
    runs = document["sweep"]["points"] if "sweep" in document else [document]
    if not any(arm["seconds"]["all"] for run in runs for arm in run["arms"]):
        raise UserError(f"{expected}, found {path} without timed runs; measure again")
    return document


def draw(document: dict[str, Any]) -> Figure:
    """The ratios against the knob of a sweep, or of every arm."""
    return _sweep(document["sweep"]) if "sweep" in document else _arms(document)


def _sweep(sweep: dict[str, Any]) -> Figure:
    figure, (ax,) = fs.panels(1, (6.4, 4.4))
    knob = sweep["knob"]
    figure.suptitle(
        "Time of a train step: median, least and largest of the repeats", **_TITLE
    )
    pairs = [("d", "c")] if knob == "positive" else [("c", "a"), ("d", "a")]
    for (one, other), color in zip(pairs, (fs.BLUE, fs.VERMILLION)):
        places, measured, counted = [], [], []
        for point in sweep["points"]:
            arms = {arm["letter"]: arm for arm in point["arms"]}
            if not {one, other} <= arms.keys() or not _ratios(arms[one], arms[other]):
                continue  # cut off by Ctrl-C
            places.append(_place(knob, point))
            measured.append(_ratios(arms[one], arms[other]))
            counted.append(arms[one]["flops"] / arms[other]["flops"])
        name = f"{_NAMES[one]} / {_NAMES[other]}"
        _spread(ax, places, measured, color, f"{name}, time")
        label = f"{name}, operations"
        ax.plot(places, counted, color=color, linestyle="--", marker="x", label=label)
    ax.axhline(1, color=fs.MUTED, linewidth=0.8)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(_LABELS[knob])
    ax.set_ylabel("ratio of two train steps (1: equal)")
    fs.legend_above(ax, columns=2 if len(pairs) == 1 else 1)
    return figure


def _place(knob: str, point: dict[str, Any]) -> float:
    workload = point["workload"]
    if knob == "positive":
        return workload["positive_responses"] / workload["samples"]
    return workload[knob]


def _ratios(one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Of each repeat."""
    return [x / y for x, y in zip(one["seconds"]["all"], other["seconds"]["all"])]


def _spread(ax: Axes, places, ratios: list[list[float]], color: str, label: str):
    """Medians over repeats, with least and largest."""
    middle = [statistics.median(each) for each in ratios]
    below = [m - min(each) for m, each in zip(middle, ratios)]
    above = [max(each) - m for m, each in zip(middle, ratios)]
    ax.errorbar(
        places, middle, [below, above], color=color, label=label, marker="o", capsize=3
    )


def _arms(document: dict[str, Any]) -> Figure:
    arms = [arm for arm in document["arms"] if arm["seconds"]["all"]]
    stock = [arm for arm in arms if arm["letter"] == "a"]
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(arms)), layout="constrained")
    figure.suptitle("Cost of a train step by objective and setting", **_TITLE)
    ax = figure.subplots()
    ax.set_ylabel("objective")
    places = range(len(arms))
    if stock:
        seconds = [statistics.median(_ratios(arm, stock[0])) for arm in arms]
        flops = [arm["flops"] / stock[0]["flops"] for arm in arms]
        lower = [place + 0.4 for place in places]
        ax.barh(lower, flops, 0.35, color=fs.GREY, label="operations")
        ax.axvline(1, color=fs.MUTED, linewidth=0.8, zorder=0)
        ax.set_xlabel("ratio to AReaL's GRPO (1: equal); time: median of the repeats")
    else:
        seconds = [arm["seconds"]["median"] for arm in arms]
        ax.set_xlabel("time of a train step (s), median of the repeats")
    bars = ax.barh(places, seconds, 0.35, color=fs.BLUE, label="time")
    ax.bar_label(bars, [f"{value:.2f}" for value in seconds], padding=3)
    ax.margins(x=0.1, y=0.02)
    ax.set_yticks(places, [arm["name"] for arm in arms])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    fs.legend_above(ax, columns=2)
    return figure
