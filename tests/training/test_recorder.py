"""metrics.jsonl: what becomes of AReaL's statistics of a step. No training here."""

from __future__ import annotations

import json

import pytest

from areal_cppo.runs.folder import RunFolder
from areal_cppo.training.batch_stats import STALENESS_BINS
from areal_cppo.training.recorder import MetricsRecorder


def stats(**more) -> dict[str, float]:
    bins = {f"cppo/staleness_tokens/{k:02d}": 0.0 for k in range(STALENESS_BINS)}
    return bins | {
        "cppo/responses": 4.0,
        "cppo/response_tokens": 100.0,
        "cppo/reward": 0.5,
        "cppo/staleness_tokens/00": 60.0,
        "cppo/staleness_tokens/02": 40.0,
        "rollout/refused/vision_token/total": 1.0,
        **more,
    }


@pytest.fixture
def recorder(tmp_path):
    heard = []
    folder = RunFolder(tmp_path).create()
    recorder = MetricsRecorder(folder, lambda kind, **fields: heard.append(fields))
    recorder.heard = heard
    return recorder


def lines(recorder) -> list[dict]:
    return [json.loads(line) for line in recorder.folder.metrics.open()]


def test_a_line_a_step(recorder):
    cpl = {
        "ppo_actor/update/cpl/gated_responses": 2.0,
        "ppo_actor/update/cpl/perception_tokens": 9.0,
        "ppo_actor/update/cpl/gated_tokens": 36.0,
    }
    recorder.step_done(1, stats())
    recorder.step_done(2, stats(**cpl))
    first, second = lines(recorder)
    assert (first["step"], first["version"], second["step"]) == (1, 0, 2)
    assert first["staleness_histogram"] == {"0": 60, "2": 40}
    assert first["samples"] == 4 and second["samples"] == 8
    assert second["refused"] == {"vision_token": 2}  # so far
    assert "cpl_gated_share" not in first
    assert second["cpl_gated_share"] == 0.5
    assert second["cpl_selected_per_response"] == 4.5
    assert second["cpl_selected_share"] == 0.25
    assert second["seconds"] >= first["seconds"] > 0


def test_nothing_gated_divides_by_nothing(recorder):
    recorder.step_done(1, stats(**{"ppo_actor/update/cpl/gated_responses": 0.0}))
    (record,) = lines(recorder)
    assert record["cpl_selected_per_response"] == 0
    assert record["cpl_selected_share"] == 0


def test_listeners_get_the_line_without_areals_statistics(recorder):
    recorder.step_done(1, stats())
    assert "stats" not in recorder.heard[0]["record"]
    assert lines(recorder)[0]["stats"]["cppo/reward"] == 0.5
