"""Accuracy by shift: a mark for each mean, a bar for each interval."""

from __future__ import annotations

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
    figure = plots._shifts(found)
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
