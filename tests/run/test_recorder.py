"""metrics.jsonl: what becomes of AReaL's statistics of a step.

The statistics are made up; those of the real actor are in step/test_actor_metrics.py.
"""

from __future__ import annotations

import json

import pytest

from areal_cppo.folder import RunFolder
from areal_cppo.metrics import declared
from areal_cppo.report.html import write_report
from areal_cppo.run.recorder import MetricsRecorder, logger
from areal_cppo.step.metrics import STALENESS_BINS

CPL = "ppo_actor/update/cpl/"
METRICS = declared()
RECORDED = {name: m.key for name, m in METRICS.items() if m.key}


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


def cpl_stats(**changes) -> dict[str, float]:
    """What AReaL exports for a step with CPL; counts are sums, the rest averages."""
    averages = {key: 0.25 for name, key in RECORDED.items() if name.startswith("cpl_")}
    counts = {
        "gated_responses": 2.0,
        "view_sequences": 2.0,
        "gated_tokens": 36.0,
        "perception_tokens": 9.0,
        "unselected_tokens": 27.0,
        "stale_tokens": 3.0,
        "nonfinite_tokens": 0.0,
        "skipped_responses": 0.0,
    }
    skipped = {"cppo/skipped_micro_batches": 0.0}
    cpl = averages | skipped | {CPL + name: n for name, n in counts.items()}
    return stats(**cpl | changes)


@pytest.fixture
def recorder(tmp_path):
    heard = []
    folder = RunFolder(tmp_path).create()

    def say(kind, **fields):
        heard.append({"kind": kind, **fields})

    recorder = MetricsRecorder(folder, say)
    recorder.heard = heard
    return recorder


def lines(recorder) -> list[dict]:
    return [json.loads(line) for line in recorder.folder.metrics.open()]


def test_a_line_a_step(recorder):
    recorder.step_done(1, stats())
    recorder.step_done(2, cpl_stats())
    first, second = lines(recorder)
    assert (first["step"], first["version"], second["step"]) == (1, 0, 2)
    assert first["staleness_histogram"] == {"0": 60, "2": 40}
    assert first["samples"] == 4 and second["samples"] == 8
    assert second["refused"] == {"vision_token": 2}  # so far
    assert not any(name.startswith("cpl_") for name in first)
    assert second["cpl_gated_share"] == 0.5
    assert second["cpl_selected_per_response"] == 4.5
    assert second["cpl_selected_share"] == 0.25
    assert second["seconds"] >= first["seconds"] > 0


def test_parts_of_the_reward(recorder):
    """Those of a user's function too, from the step on that has them."""
    parts = {"cppo/reward_parts/answer": 0.5, "cppo/reward_parts/brevity": 0.25}
    recorder.step_done(1, stats(**parts))
    recorder.step_done(2, stats(**{"cppo/reward_parts/answer__count": 4.0}))
    first, second = lines(recorder)
    assert (first["reward/answer"], first["reward/brevity"]) == (0.5, 0.25)
    assert not any(name.startswith("reward/") for name in second)
    meanings = json.loads(recorder.folder.meanings.read_text())
    assert "brevity" in meanings["reward/brevity"]["help"]


def test_lengths_by_bin(recorder):
    """Bins of 4 tokens: the first holds 1 to 4, the fourth 13 to 16."""
    lengths = {"cppo/response_lengths/00": 3.0, "cppo/response_lengths/03": 1.0}
    recorder.step_done(1, stats(**{"cppo/length_bin_tokens": 4.0, **lengths}))
    recorder.step_done(2, stats())
    first, second = lines(recorder)
    assert first["response_tokens_histogram"] == {"2.5": 3, "14.5": 1}
    assert second["response_tokens_histogram"] == {}


def test_nothing_gated_divides_by_nothing(recorder):
    recorder.step_done(1, stats(**{f"{CPL}gated_responses": 0.0}))
    (record,) = lines(recorder)
    assert record["cpl_gated_share"] == 0
    assert record["cpl_selected_per_response"] == 0
    assert record["cpl_selected_share"] == 0
    assert record["cpl_stale_dropped_share"] == 0
    assert "cpl_effective_sample_share" not in record  # of no tokens


def test_a_line_is_strict_json_whatever_was_recorded(recorder):
    """A gradient norm that is not finite has no number in JSON; its update is named."""
    skipped = {"ppo_actor/update/update_successful": 0.0}
    recorder.step_done(
        1, stats(**{"ppo_actor/update/grad_norm": float("nan")}, **skipped)
    )

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = recorder.folder.metrics.read_text()
    line = json.loads(text, parse_constant=refuse)
    assert "grad_norm" not in line and line["update_skipped"] == 1.0


def test_listeners_get_the_line_without_areals_statistics(recorder):
    recorder.step_done(1, stats())
    assert "stats" not in recorder.heard[0]["record"]
    assert lines(recorder)[0]["stats"]["cppo/reward"] == 0.5


@pytest.mark.parametrize(
    ("weights", "size", "share"),
    [
        ([1.0] * 8, 8.0, 1.0),
        ([0.25] * 8, 8.0, 1.0),  # equal, whatever they are
        ([1.0, 0.0, 0.0, 0.0], 1.0, 0.25),
        ([3.0, 1.0], 16 / 10, 8 / 10),
        ([0.0] * 4, 0.0, 0.0),  # all too stale
    ],
)
def test_effective_sample(recorder, weights, size, share):
    """(sum of w)^2 / sum of w^2, worked by hand, from the two averages."""
    n = len(weights)
    changes = {
        "perception_tokens": float(n),
        "staleness_weight": sum(weights) / n,
        "staleness_weight_squared": sum(w * w for w in weights) / n,
    }
    recorder.step_done(1, cpl_stats(**{CPL + k: v for k, v in changes.items()}))
    (record,) = lines(recorder)
    assert record["cpl_effective_sample_size"] == pytest.approx(size)
    assert record["cpl_effective_sample_share"] == pytest.approx(share)


def test_tokens_dropped_by_staleness(recorder):
    recorder.step_done(1, cpl_stats())
    (record,) = lines(recorder)
    assert record["cpl_stale_dropped_share"] == pytest.approx(3 / 9)


def test_what_is_rare_and_grave_is_summed_too(recorder):
    bad = {
        f"{CPL}nonfinite_tokens": 5.0,
        f"{CPL}skipped_responses": 4.0,
        "cppo/skipped_micro_batches": 2.0,
        "ppo_actor/update/update_successful": 0.0,
    }
    good = {"ppo_actor/update/update_successful": 1.0}
    recorder.step_done(1, cpl_stats(**bad))
    recorder.step_done(2, cpl_stats(**good))
    recorder.step_done(3, stats(**good))  # no CPL in this step: nothing is forgotten
    recorder.step_done(4, cpl_stats(**bad))
    names = (
        "cpl_nonfinite_tokens",
        "cpl_skipped_responses",
        "cpl_skipped_micro_batches",
        "update_skipped",
    )
    expected = [(5, 4, 2, 1), (5, 4, 2, 1), (5, 4, 2, 1), (10, 8, 4, 2)]
    for record, totals in zip(lines(recorder), expected, strict=True):
        assert tuple(record[f"{name}_total"] for name in names) == totals
    skipped = [record["update_skipped"] for record in lines(recorder)]
    assert skipped == [1, 0, 0, 1]


def test_a_warning_reaches_file_listeners_and_log(recorder, monkeypatch):
    logged = []

    def warning(form, *args):
        logged.append(form % args)

    monkeypatch.setattr(logger, "warning", warning)
    recorder.step_done(1, cpl_stats(**{f"{CPL}nonfinite_tokens": 5.0}))
    recorder.step_done(2, cpl_stats(**{f"{CPL}nonfinite_tokens": 5.0}))
    first, second = lines(recorder)
    (line,) = first["warnings"]
    assert "not finite (5 tokens)" in line
    assert "warnings" not in second
    kinds = [event["kind"] for event in recorder.heard]
    assert kinds == ["step", "note", "step"]
    assert recorder.heard[0]["record"]["warnings"] == [line]
    assert recorder.heard[1]["text"] == f"warning at step 1: {line}"
    assert logged == [f"step 1: {line}"]


def test_a_short_run_that_learnt_nothing_says_so_at_its_end(recorder):
    recorder.ends = lambda step: step == 2
    nothing = {"cppo/reward": 0.0, "ppo_actor/update/grad_norm": 0.0}
    for step in (1, 2):
        recorder.step_done(step, stats(**nothing))
    first, second = lines(recorder)
    assert "warnings" not in first
    assert any("0 for all 8 responses" in line for line in second["warnings"])
    notes = [event["text"] for event in recorder.heard if event["kind"] == "note"]
    assert [f"warning at step 2: {line}" for line in second["warnings"]] == notes


def test_a_line_holds_the_vocabulary_and_nothing_else(recorder):
    """Every name is explained, and everything that is explained is recorded."""
    everything = {key: 1.0 for key in RECORDED.values()}
    everything |= {"ppo_actor/update/update_successful": 0.0}
    recorder.step_done(1, stats(**everything))
    (record,) = lines(recorder)
    assert set(record) == set(METRICS)
    numbers = {name for name, value in record.items() if isinstance(value, int | float)}
    others = {"refused", "staleness_histogram", "warnings", "stats"}
    others.add("response_tokens_histogram")
    assert numbers == set(METRICS) - others


def test_the_report_of_recorded_lines_explains_each_number(recorder):
    for step in range(1, 4):
        recorder.step_done(step, cpl_stats(**{f"{CPL}nonfinite_tokens": 5.0}))
    html = write_report(recorder.folder.path).read_text(encoding="utf-8")
    assert "Warnings during the run" in html and "not finite (5 tokens)" in html
    assert "Not described here" not in html
    (record, *_) = lines(recorder)
    for name, value in record.items():
        if isinstance(value, int | float) and name not in ("step", "time"):
            assert f"<code>{name}</code>" in html
    for plot in ("cpl", "gain", "selection", "shortcut"):
        assert (recorder.folder.path / "report_files" / f"{plot}.svg").is_file()
