"""Time line and summary of a run's folder, from hand-written traces."""

from __future__ import annotations

import json

import pytest

from areal_cppo.folder import FAILED, SHARED, WARNING, RunFolder
from areal_cppo.run.finish import finish_run, read_timeline


@pytest.fixture
def folder(tmp_path):
    """Two steps; training 1-3 s and 4-5 s, weights 3-3.5 s, one request 0-4.5 s."""
    folder = RunFolder(tmp_path).create()
    areal = tmp_path / "elsewhere"
    tracer = f"{{fileroot: {areal}, experiment_name: e, trial_name: t}}"
    folder.config.write_text(
        f"seed: 7\nactor: {{objective: cppo}}\nperf_tracer: {tracer}\n"
    )
    for step, seconds in ((1, 4.0), (2, 5.0)):
        folder.append(
            folder.metrics,
            {
                "step": step,
                "seconds": seconds,
                "staleness_histogram": {"0": 3, "1": 1},
                "refused": {"vision_token": step},
            },
        )
    for step, accuracy in ((0, 0.25), (2, 0.5)):
        record = {"step": step, "accuracy": accuracy, "n": 4}
        folder.append(folder.evaluations, record)
    logs = areal / "logs/user/e/t"

    def phase(name, start, end):
        span = {"ts": (100 + start) * 1e6, "dur": (end - start) * 1e6}
        return {"name": name, "ph": "X"} | span

    write(
        logs / "perf_tracer/master/traces-r0.jsonl",
        {"name": "clock", "ph": "i", "ts": 100e6, "args": {"unix_seconds": 5000.0}},
        phase("train.ppo_update", 1, 3),
        phase("train.update_weights", 3, 3.5),
        phase("train.recompute_logp", 4, 5),
        phase("train.rollout", 0, 1),
    )
    request = {"start_ts": 5000.0, "end_ts": 5004.5}
    open_request = {"start_ts": 5004.0, "end_ts": None}
    write(
        logs / "session_tracer/rollout/sessions-r0.jsonl",
        {"phases": {"generate": [request]}},
        {"phases": {"generate": [open_request]}},
    )
    return folder


def write(file, *records):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]
    file.write_text("\n".join(lines) + '\n{"torn')


def test_timeline_is_on_one_clock(folder):
    assert read_timeline(folder) == {
        "generation": [[0.0, 4.5]],
        "training": [[1.0, 3.0, "update"], [4.0, 5.0, "log-probs"]],
        "weights": [[3.0, 3.5]],
    }


def test_summary_and_report(folder):
    report = finish_run(folder.path)
    assert report.is_file()
    summary = json.loads(folder.summary.read_text())
    assert summary == {
        "objective": "cppo",
        "seed": 7,
        "steps": 2,
        "seconds": 5.0,
        "accuracy_before": 0.25,
        "accuracy_after": 0.5,
        "accuracy_n": 4,
        "best": None,
        # Both busy 1-3 and 4-4.5 of 5 seconds.
        "overlap_share": pytest.approx(0.5),
        "max_staleness": 1,
        "mean_staleness": 0.25,
        "refused": {"vision_token": 2},
        "failure": None,
    }


def test_why_it_failed(folder):
    folder.event("run_started")
    folder.event(FAILED, reason="no memory left", status=1)
    page = finish_run(folder.path).read_text()
    assert "The run failed" in page and "no memory left" in page
    assert json.loads(folder.summary.read_text())["failure"] == "no memory left"
    folder.event("run_started")  # it goes on
    assert "The run failed" not in finish_run(folder.path).read_text()


@pytest.fixture
def card(folder):
    """What the card of a checkpoint says, once the run is finished again."""
    checkpoint = folder.checkpoint(2)
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")

    def card() -> str:
        finish_run(folder.path)
        return (checkpoint / "README.md").read_text()

    return card


def test_the_card_of_a_run_that_went_on_tells_of_all_of_it(folder, card):
    assert "2 training steps" in card()
    folder.append(folder.metrics, {"step": 3, "seconds": 9.0})
    assert "3 training steps" in card()


def test_what_was_warned_of_before_the_first_step(folder, card):
    """Once, though each life says it; a card doesn't claim what is not so."""
    assert "problems that it was not trained on." in card()
    for _ in range(2):
        folder.event(WARNING, text=f"valid_dataset {SHARED} 4 of 40 problems")
    page = finish_run(folder.path).read_text()
    assert page.count(f"</strong>: valid_dataset {SHARED} 4 of 40 problems") == 1
    assert "problems, some of which it was trained on (see the warnings)." in card()


def test_the_best_validation_is_named(folder):
    """Of equals the earliest; a validation without a checkpoint is none."""
    lines = [
        {"step": 0, "accuracy": 0.9, "n": 4},
        {"step": 1, "accuracy": 0.5, "n": 4, "checkpoint": "checkpoints/step-00001"},
        {"step": 2, "accuracy": 0.5, "n": 4, "checkpoint": "checkpoints/step-00002"},
    ]
    write(folder.evaluations, *lines)
    finish_run(folder.path)
    assert json.loads(folder.summary.read_text())["best"] == lines[1]


def test_an_untraced_run_has_no_timeline(tmp_path):
    folder = RunFolder(tmp_path).create()
    folder.config.write_text("seed: 1\n")
    finish_run(tmp_path)
    assert not folder.timeline.exists()
    summary = json.loads(folder.summary.read_text())
    assert summary["steps"] == 0 and summary["overlap_share"] is None
