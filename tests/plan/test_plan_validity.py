"""The simulation predicts what was measured: stored measurements of real runs.

`python -m tests.plan.validate` made docs/throughput/validation.json; each of its runs
has the rates that were measured and what `bench async` said of it. Here all are
simulated again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from areal_cppo.bench.predict import Measurement
from tests.plan.validate import SETTINGS

FILE = Path(__file__).parents[2] / "docs" / "throughput" / "validation.json"
RUNS = [
    Measurement.of_json(run)
    for run in json.loads(FILE.read_text(encoding="utf-8"))["runs"]
]
WITHIN = 0.15


def test_all_settings_are_there():
    assert [run.name for run in RUNS] == [setting.name for setting in SETTINGS]


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_predicted_within_15_percent(run):
    predicted = run.predicted()
    for name in ("samples_per_second", "tokens_per_second"):
        assert predicted[name] == pytest.approx(run.measured[name], rel=WITHIN)
