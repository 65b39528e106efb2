"""The vocabulary of metrics: complete sentences, and the same table in the docs.

That it names exactly what `metrics.jsonl` holds is tested where that is written, in
`tests/run/test_recorder.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from areal_cppo.report.vocabulary import METRICS, metrics_table

ALGORITHM = Path(__file__).parents[2] / "docs" / "algorithm.md"
UNITS = {"", "share", "nats", "s", "versions", "steps", "passes"}
UNITS |= {"tokens", "tokens/s", "responses", "responses/s", "images", "patches"}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_title_unit_and_sentence(name):
    title, unit, words = METRICS[name]
    assert title[0].isupper() and unit in UNITS
    assert words[0].isupper() and words.endswith(".")
    assert "|" not in words  # it goes into a Markdown table


def test_titles_tell_metrics_apart():
    titles = [title for title, _, _ in METRICS.values()]
    assert len(set(titles)) == len(titles)


def test_names_in_the_words_exist():
    """A metric that another one's sentence sends the reader to."""
    for name, (_, _, words) in METRICS.items():
        for word in words.replace(",", " ").replace(";", " ").rstrip(".").split():
            if word.startswith("cpl_"):
                assert word in METRICS, f"{name} names {word}"


def test_table_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo.report.vocabulary"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "| metric | unit | meaning |"
    assert len(lines) == 2 + len(METRICS)
    assert {line.count("|") for line in lines} == {4}
    assert lines[2] == "| `step` | - | Training step, from 1. |"


def test_docs_hold_the_table():
    """Pasted from `python -m areal_cppo.report.vocabulary`, under `## Metrics`."""
    text = ALGORITHM.read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == metrics_table().splitlines()[2:]
