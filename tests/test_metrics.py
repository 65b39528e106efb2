"""The declared metrics: complete sentences, and the same table in the docs.

That they are exactly what `metrics.jsonl` holds is tested where that is written, in
`tests/run/test_recorder.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from areal_cppo.metrics import Metric, by_name, declared, meanings, share, table

ALGORITHM = Path(__file__).parents[1] / "docs" / "algorithm.md"
UNITS = {"", "share", "nats", "s", "versions", "steps", "passes"}
UNITS |= {"tokens", "tokens/s", "responses", "responses/s", "images", "patches"}
METRICS = declared()


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_has_title_unit_and_sentence(metric):
    assert metric.title[0].isupper() and metric.unit in UNITS
    assert metric.help[0].isupper() and metric.help.endswith(".")
    assert "|" not in metric.help  # it goes into a Markdown table


def test_titles_tell_metrics_apart():
    titles = [metric.title for metric in METRICS.values()]
    assert len(set(titles)) == len(titles)


def test_names_in_the_words_exist():
    """A metric that another one's sentence sends the reader to."""
    for metric in METRICS.values():
        words = metric.help.replace(",", " ").replace(";", " ").rstrip(".").split()
        for word in words:
            if word.startswith("cpl_"):
                assert word in METRICS, f"{metric.name} names {word}"


def test_two_of_one_name_are_refused():
    with pytest.raises(ValueError, match="expected one metric a, found two"):
        by_name([Metric("a", "A", "", "One."), Metric("a", "B", "", "Two.")])


def test_a_share_has_no_meaning_of_nothing():
    derive = share("part", "whole")
    assert derive({"part": 1.0, "whole": 4.0}, {}) == 0.25
    assert derive({"whole": 4.0}, {}) == 0.0
    assert derive({"part": 1.0, "whole": 0.0}, {}) is None
    assert derive({"part": 1.0}, {}) is None


def test_a_run_says_what_its_metrics_mean(tmp_path):
    file = tmp_path / "metrics.json"
    assert meanings(file)["lr"] == METRICS["lr"].meaning  # from before runs said so
    file.write_text(json.dumps({"lr": {"title": "Other", "unit": "", "help": "Old."}}))
    assert meanings(file) == {"lr": {"title": "Other", "unit": "", "help": "Old."}}


def test_docs_hold_the_table():
    """Pasted from `python -m areal_cppo.metrics`, under `## Metrics`."""
    lines = table().splitlines()
    assert lines[0] == "| metric | unit | meaning |"
    assert len(lines) == 2 + len(METRICS)
    assert {line.count("|") for line in lines} == {4}
    assert lines[2] == "| `step` | - | Training step, from 1. |"
    text = ALGORITHM.read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == lines[2:]
