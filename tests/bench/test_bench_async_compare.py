"""The same training at several bounds of staleness: order, resuming, the trade-off.

Runs are made up: what starts one writes a folder worked by hand.
"""

from __future__ import annotations

import json

import pytest

from areal_cppo.bench.async_compare import (
    check_settings,
    describe,
    run_trials,
    schedule,
    tradeoff,
)
from areal_cppo.cli.main import main
from areal_cppo.errors import UserError
from tests.bench import run_by_hand as hand


def finish(trial, seconds: float = 10.0, accuracy: float = 0.5) -> int:
    """A finished run whose steps took so long."""
    hand.write_run(trial.folder)
    records = [json.loads(x) for x in (trial.folder / "metrics.jsonl").open()]
    for record in records:
        record |= {"seconds": seconds * record["step"], "step_seconds": seconds}
    hand.write_lines(trial.folder / "metrics.jsonl", records)
    evaluations = [{"step": s, "accuracy": accuracy, "n": 100} for s in (0, 3)]
    hand.write_lines(trial.folder / "evaluations.jsonl", evaluations)
    hand.write_lines(trial.folder / "events.jsonl", [{"event": "run_finished"}])
    return 0


def test_rounds_alternate(tmp_path):
    trials = schedule([0, 1, 4], 3, tmp_path)
    assert [trial.staleness for trial in trials] == [0, 1, 4, 4, 1, 0, 0, 1, 4]
    assert [trial.round for trial in trials] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert trials[3].folder == tmp_path / "round-2" / "staleness-4"


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    trials = schedule([0, 2], 2, tmp_path)
    notes, started = [], []

    def killed(trial) -> int:
        started.append(trial)
        if len(started) == 3:
            trial.folder.mkdir(parents=True)
            (trial.folder / "metrics.jsonl").write_text("half")
            return 130
        return finish(trial)

    assert run_trials(trials, killed, notes.append) == 130
    assert started == trials[:3]
    started.clear()

    def goes_well(trial) -> int:
        started.append(trial)
        return finish(trial)

    assert run_trials(trials, goes_well, notes.append) == 0
    assert started == trials[2:]
    kept = trials[2].folder.with_name("staleness-2-cut-off-1") / "metrics.jsonl"
    assert kept.read_text() == "half"
    assert notes[-4].endswith("staleness 0: finished before")
    assert "trial 4 of 4: round 2, staleness 0" in notes[-1]


def test_the_tradeoff_by_hand(tmp_path):
    """Bound 2 is faster by 1.25 in one round and by 2 in the other."""
    trials = schedule([0, 2], 2, tmp_path)
    for trial, seconds, accuracy in zip(
        trials, (10.0, 8.0, 5.0, 10.0), (0.5, 0.6, 0.4, 0.7), strict=True
    ):
        finish(trial, seconds, accuracy)
    none, two = describe(trials, warmup=1)["tradeoff"]
    assert none["ratio"] == 1 and none["ratios"] == [1, 1]
    assert two["ratios"] == pytest.approx([10 / 8, 10 / 5])
    assert two["ratio"] == pytest.approx(1.625)
    assert two["samples_per_second"] == pytest.approx((1.0 + 1.6) / 2)
    assert none["accuracy"]["3"]["accuracy"] == pytest.approx(0.6)
    assert two["accuracy"]["3"]["each"] == [0.6, 0.4]
    low, high = (two["accuracy"]["3"][key] for key in ("low", "high"))
    assert low < 0.5 < high and two["accuracy"]["3"]["n"] == 100
    assert tradeoff([]) == []


def test_an_unfinished_round_has_no_ratio(tmp_path):
    trials = schedule([0, 2], 2, tmp_path)
    for trial in (trials[0], trials[1], trials[2]):  # round 2: bound 2 alone
        finish(trial)
    _, two = describe(trials, warmup=1)["tradeoff"]
    assert two["rounds"] == 2 and len(two["ratios"]) == 1


def test_settings_may_not_change(tmp_path):
    out = tmp_path / "out"
    check_settings(out, {"steps": 4, "seed": 1})
    check_settings(out, {"steps": 4, "seed": 1})
    with pytest.raises(UserError, match=r"--out: expected trials of the same.*steps"):
        check_settings(out, {"steps": 5, "seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="found .* in use"):
        check_settings(tmp_path / "other", {"steps": 4})


def test_the_command(tmp_path, monkeypatch, capsys):
    import areal_cppo.cli.train as train

    calls = []

    def fake(config, overrides, name, steps=None) -> int:
        settings = dict(word.split("=", 1) for word in overrides)
        calls.append(settings)
        if len(calls) == 3:
            return 130
        bound = settings["rollout.max_head_offpolicyness"]
        (trial,) = (
            t
            for t in schedule([0, 4], 2, tmp_path / "out")
            if str(t.folder) == settings["run_dir"].strip("'")
        )
        return finish(trial, seconds=10.0 if bound == "0" else 5.0)

    monkeypatch.setattr(train, "run_with_display", fake)
    files = tmp_path / "x.json", tmp_path / "x.png"
    command = ["bench", "async", "--config", "c.yaml", "--steps", "3", "--warmup", "1"]
    command += ["--staleness", "0,4", "--alternate", "2", "--out", f"{tmp_path}/out"]
    command += ["--json", str(files[0]), "--plot", str(files[1]), "heldout.size=100"]
    assert main(command) == 130
    shown = capsys.readouterr()
    assert "goes on" in shown.err and "2.00 (2.00-2.00)" in shown.out
    assert len(json.loads(files[0].read_text())["trials"]) == 2
    assert main(command) == 0
    assert [call["seed"] for call in calls] == ["1", "1", "2", "2", "2"]
    assert [call["rollout.max_head_offpolicyness"] for call in calls] == list("04440")
    assert all(call["heldout.size"] == "100" for call in calls)
    assert all(call["total_train_steps"] == "3" for call in calls)
    document = json.loads(files[0].read_text())
    assert document["kind"] == "staleness" and len(document["trials"]) == 4
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert main([*command[:5], "4", *command[6:]]) == 2  # other steps, same folder
    assert "steps; name another" in capsys.readouterr().err
