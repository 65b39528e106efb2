"""What a report says of a run: its head, its charts' values and legends, its trends.

How charts are read off in a browser is in test_browser.py.
"""

import json

import pytest

from areal_cppo.report import figure_style as fs
from areal_cppo.report.chart import NARROW
from areal_cppo.report.html import report_html
from areal_cppo.report.identity import identity, page_title
from areal_cppo.report.page import number
from areal_cppo.report.plots import all_plots, learning_plot, line_of
from areal_cppo.report.runs import load_run
from areal_cppo.report.trend import trend
from tests.report.test_html import Page

CONFIG = """experiment_name: geometry
trial_name: third
actor: {objective: cppo, path: %s}
data: {source: %s}
train_dataset: {path: /home/someone/problems.parquet, split: train}
cluster: {n_nodes: 2, n_gpus_per_node: %d}
"""
HUB = "/home/someone/hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/0a1b"


@pytest.fixture(scope="module")
def drawn(full_folder):
    """The charts of a full run, and what is written into each of their panels."""
    seen, svg_text = [], fs.svg_text

    def watched(figure):
        svg = svg_text(figure)
        for ax in figure.axes:
            seen.append([text.get_text() for text in ax.texts])
            if legend := ax.get_legend():
                box = legend.get_window_extent()
                assert box.y0 >= ax.bbox.y1 - 1, "the legend covers its panel"
                assert box.x1 <= figure.bbox.x1 + 1, "the legend leaves the picture"
        return svg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "svg_text", watched)
        plots = all_plots(load_run(full_folder.folder))
    return plots, seen


def test_legends_stand_over_panels_and_nothing_is_written_on_curves(drawn):
    plots, panels = drawn
    assert len(panels) > 2 * len(plots)
    for words in panels:
        assert all(word.endswith("%") for word in words)  # over the bars


def test_each_chart_is_drawn_wide_and_narrow(drawn):
    for plot in drawn[0]:
        assert f'width="{NARROW * 72:g}pt"' in plot.narrow
        assert f'width="{NARROW * 72:g}pt"' not in plot.svg
        left, width, top, height = plot.readings["boxes"][0]
        assert 0 < left < left + width <= 1 and 0 < top < top + height < 1


def test_charts_tell_what_was_recorded(full_folder, drawn):
    run = load_run(full_folder.folder)
    said = {plot.name: plot.readings for plot in drawn[0]}
    rows = {row["label"]: row["values"] for row in said["cpl"]["rows"]}
    assert said["cpl"]["places"] == run.series("cpl_loss")[0]
    losses = run.series("cpl_loss")[1]
    assert rows["CPL"] == [number(loss, "nats") for loss in losses]
    learning = {row["label"]: row["values"] for row in said["learning"]["rows"]}
    heldout = {e["step"]: e["accuracy"] for e in run.evaluations}
    assert learning["held-out accuracy"] == [
        number(heldout[step], "share") if step in heldout else "" for step in range(13)
    ]
    whole = {row["label"]: row["values"] for row in said["timeline"]["rows"]}
    assert set(whole) >= {"requests in flight", "update", "weights"}


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda a, n: 0.9 * a + 0.1, "0.90 × accuracy + 0.10"),
        (lambda a, n: 2 * a - 1 + 0.001 * (n % 3), "2.00 × accuracy \u2212 1.00"),
        (lambda a, n: 0.9 * a + 0.1 * min(1, n / 10), None),
        (lambda a, n: a**3, None),
    ],
)
def test_reward_is_drawn_where_it_is_no_line_of_accuracy(run_folder, reward, words):
    shares = [(1, 0.0), (2, 0.5), (3, 0.25), (4, 1.0), (10, 0.5)]
    records = [{"step": n, "accuracy": a, "reward": reward(a, n)} for n, a in shares]
    run_folder.lines("metrics.jsonl", records)
    run = load_run(run_folder.folder)
    assert line_of(run, "accuracy", "reward") == words
    with fs.style():
        plot = learning_plot(run)
    drawn = [row["label"] for row in plot.readings["rows"]]
    assert ("reward" in drawn) == (words is None)
    assert words is None or f"it is {words} throughout" in plot.caption


def test_reward_is_drawn_with_its_parts_or_alone(run_folder):
    records = [{"step": n, "accuracy": n / 4, "reward": n / 4} for n in range(4)]
    made = [record | {"reward/length": 0.5} for record in records]
    for lines in (made, records[:2], [{"step": 1, "reward": 1}]):
        run_folder.lines("metrics.jsonl", lines)
        with fs.style():
            plot = learning_plot(load_run(run_folder.folder))
        assert "reward" in [row["label"] for row in plot.readings["rows"]]


def test_trends_by_hand():
    assert trend([]) is None
    assert trend([1.0, 2.0]).mean == 1.5 and trend([1.0, 2.0]).words("") == ""
    rising = trend([1.0, 1.0, 2.0, 1.0, 1.0, 5.0, 6.0, 5.0, 6.0, 5.0])
    assert (rising.mean, rising.steps, rising.before) == (5.4, 5, 1.2)
    assert rising.words("") == "\u2191 up from 1.2"
    noisy = trend([1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0])
    assert noisy.words("s") == "\u2192 no clear change from 4.2 s"
    long = trend([0.9] * 180 + [0.5] * 20)
    assert long.steps == 20 and long.words("share") == "\u2193 down from 90.0 %"


def test_means_and_trends_are_on_the_page(run_folder):
    run_folder.lines(
        "metrics.jsonl",
        [
            {"step": n, "seconds": 2.0 * n, "accuracy": 0.25 if n < 6 else 0.75}
            for n in range(1, 11)
        ],
    )
    text = " ".join(Page(report_html(load_run(run_folder.folder), [])).text.split())
    assert "75.0 % , mean of the last 5 steps (↑ up from 25.0 % in as many before)" in (
        text.replace("%,", "% ,")
    )
    assert "20 s last value" in text


def test_a_run_is_named_in_title_and_head(run_folder):
    run_folder.metrics(2).config(CONFIG % (HUB, "geometry3k", 8))
    machine = "8 x NVIDIA H100, 64 CPU cores, 512.0 GiB of memory"
    events = [
        {"event": "run_started", "time": 1.75e9},
        {"event": "run_started", "time": 1.76e9, "machine": machine},
    ]
    run_folder.lines("events.jsonl", events)
    run = load_run(run_folder.folder)
    assert [part.words for part in identity(run)] == [
        "geometry/third",
        "15 June 2025, 15:06 UTC",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "problems.parquet, split train",
        f"{machine}; configured for 2 nodes, 8 GPUs each",
    ]
    html = report_html(run, [])
    assert f"<title>{page_title(run, 'areal_cppo run report')}</title>" in html
    for part in identity(run):
        assert part.words in html and part.short in page_title(run, "")
    assert "someone" not in page_title(run, "")


def test_what_names_a_run_is_missing_or_of_the_demo(run_folder):
    run_folder.lines("metrics.jsonl", [{"step": 1}])
    words = [part.words for part in identity(load_run(run_folder.folder))]
    assert words[0] == "in the folder run"
    assert all(each.startswith("Not recorded") for each in words[1:])
    checkpoint = "/x/areal_cppo/tasks/triangles/checkpoint"
    run_folder.config(CONFIG % (checkpoint, "triangles", 0))
    words = [part.words for part in identity(load_run(run_folder.folder))]
    assert words[2:] == [
        "tiny model of the task triangles",
        "synthetic task triangles",
        "Not recorded; configured for 2 nodes, CPUs only",
    ]


def test_strange_values_name_no_run_and_break_nothing(run_folder):
    run_folder.config(json.dumps({"actor": {"path": 3}, "experiment_name": [1]}))
    run_folder.lines("events.jsonl", [{"event": "run_started", "time": 1e30}])
    parts = identity(load_run(run_folder.folder))
    assert parts[0].words == "[1]" and parts[1].short is None
