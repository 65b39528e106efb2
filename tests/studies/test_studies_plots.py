"""Accuracy by shift: a mark for each mean, a bar for each interval."""

from __future__ import annotations

import pandas as pd

from areal_cppo.studies import plots


def arm(name: str, mean: float, low: float | None, high: float | None) -> dict:
    value = {"mean": mean, "low": low, "high": high, "n": 5}
    means = {"accuracy": value, "accuracy_sampled": value}
    return {"arm": name, "means": means, "differences": {}}


def summary(**by_shift: list[dict]) -> dict:
    return {"tasks": {"triangles": by_shift}, "references": ["a"]}


def test_shifts(tmp_path):
    """Arm b has one seed under the shift, so no interval; of arm c there is nothing."""
    found = summary(
        none=[
            arm("a", 0.7, 0.6, 0.8),
            arm("b", 0.5, 0.4, 0.6),
            arm("c", 0.5, 0.4, 0.6),
        ],
        font=[arm("a", 0.3, 0.2, 0.4), arm("b", 0.2, None, None)],
    )
    figure = plots._shifts(found, pd.DataFrame())
    for ax in figure.axes:
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert sorted(float(line.get_xdata()[0]) for line in dots) == [
            *(0.2, 0.3, 0.5, 0.5, 0.7)
        ]
        assert len(ax.lines) - len(dots) == 4
        rows = [round(float(line.get_ydata()[0])) for line in dots]
        assert sorted(rows) == [0, 0, 0, 1, 1]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["none", "font"]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    (file,) = plots.draw_all(tmp_path, found, [], [])
    assert file.name == "shifts.png" and file.stat().st_size > 5000


def test_without_shifts_there_is_no_picture(tmp_path):
    found = summary(none=[arm("a", 0.7, 0.6, 0.8)], font=[])
    assert plots.draw_all(tmp_path, found, [], []) == []


def line(arm: str, seed: int, step: int, accuracy: float, shift: str = "none") -> dict:
    of = {"task": "triangles", "arm": arm, "seed": seed, "step": step, "shift": shift}
    return of | {"accuracy": accuracy, "accuracy_sampled": accuracy}


def dots(ax) -> list[list[float]]:
    return [p for c in ax.collections for p in c.get_offsets().tolist()]


def test_seeds_stand_beside_the_means():
    """In the row of their arm and shift; of a mean over shifts there are none."""
    means = [arm("a", 0.5, 0.4, 0.6), arm("b", 0.7, 0.6, 0.8)]
    found = summary(none=means, **{"mean of shifts": means})
    lines = [line(a, s, 9, 0.1 * s) for a in "ab" for s in (3, 5)]
    lines += [line("a", 3, 0, 0.9)]  # not the last step
    for ax in plots._shifts(found, pd.DataFrame(lines)).axes:
        assert sorted(round(x, 6) for x, _ in dots(ax)) == [0.3, 0.3, 0.5, 0.5]
        assert {round(y) for _, y in dots(ax)} == {0}
        assert ax.get_xlim() == (0, 1) and "(share)" in (ax.get_xlabel())
    found["tasks"]["triangles"]["none"][1]["differences"] = {
        "a": {"accuracy": {"mean": 0.15, "low": 0.1, "high": 0.2, "n": 2}}
    }
    lines = [line("a", 1, 9, 0.5), line("b", 1, 9, 0.6), line("b", 2, 9, 0.9)]
    (ax,) = plots._forest(found, pd.DataFrame(lines)).axes
    ((x, y),) = dots(ax)  # only seed 1 is a pair
    assert abs(x - 0.1) < 1e-9 and 0 < y < 0.5


def test_eleven_arms_can_be_told_apart():
    arms = [f"arm {n}" for n in range(11)]
    styles = plots._styles(arms)
    assert len({tuple(style.values()) for style in styles.values()}) == 11
    lines = [line(a, s, t, 0.5) for a in arms for s in (1, 2) for t in (0, 9)]
    figure = plots._by_step(pd.DataFrame(lines), plots.COMPARED)
    for ax in figure.axes:
        assert ax.get_ylim() == (0, 1) and len(ax.lines) == 11
        assert len(dots(ax)) == 22 and len({x for x, _ in dots(ax)}) == 11
        assert max(ax.get_xticks()) <= 9 < min(x for x, _ in dots(ax))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == arms
