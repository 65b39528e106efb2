"""`areal-cppo bench predict` on a run worked by hand.

Synchronous, one server, two prompts of four responses. Of each ten seconds all eight
responses are under way for 5.5 and have their reward 0.5 later; the trainer computes
for 3 and hands its weights over in 1:

    generation, reward   0-5.5-6
    trainer              waits 0-6, computes 6-9
    weights              9-10
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from areal_cppo.bench.async_rates import fit_rates
from areal_cppo.bench.async_run import read_run
from areal_cppo.bench.predict import Measurement, runs_table
from areal_cppo.cli.main import main
from areal_cppo.plan.distributions import Fixed
from areal_cppo.plan.rates import write_rates
from tests.bench import run_by_hand as hand

STEPS = 8


def record(number: int) -> dict:
    times = {"rollout": 6.0, "train_step": 3.0, "update_weights": 1.0}
    stats = {f"timeperf/{name}": seconds for name, seconds in times.items()}
    return hand.record(1) | {
        "step": number,
        "seconds": 10.0 * number,
        "samples": 8 * number,
        "staleness_histogram": {"0": 200},
        "response_tokens_histogram": {"25.0": 8},
        "seconds_rollout": 6.0,
        "seconds_weights": 1.0,
        "stats": stats | {"ppo_actor/n_seqs": 8.0, "ppo_actor/seq_len/avg": 35.0},
    }


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "by-hand"
    hand.write_lines(folder / "metrics.jsonl", [record(n + 1) for n in range(STEPS)])
    config = hand.config() | {
        "train_dataset": {"batch_size": 2},
        "gconfig": {"n_samples": 4},
        "rollout": {"backend": "sglang:d1p1t1", "max_head_offpolicyness": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    begins = [10.0 * k for k in range(STEPS)]
    timeline = {
        "generation": [[t, t + 5.5] for t in begins],
        "training": [[t + 6, t + 9, "update"] for t in begins],
        "weights": [[t + 9, t + 10] for t in begins],
    }
    (folder / "timeline.json").write_text(json.dumps(timeline))
    logs = folder / "areal" / "logs" / "user" / "e" / "t"
    events = [hand.clock(hand.UNIX, hand.ORIGIN, 0.0)]
    events += [hand.phase("update_weights", t + 9, t + 10) for t in begins]
    hand.write_lines(logs / "perf_tracer" / "master" / "traces-r0.jsonl", events)
    sessions = [hand.session(0, t, t + 5.5, "accepted") for t in begins] * 8
    file = logs / "session_tracer" / "rollout" / "sessions-r0.jsonl"
    hand.write_lines(file, sessions)
    return folder


def test_a_synchronous_run_is_predicted(folder, capsys, tmp_path):
    target = tmp_path / "predict.json"
    assert main(["bench", "predict", str(folder), "--json", str(target)]) == 0
    (run,) = json.loads(target.read_text())["runs"]
    expected = {
        "samples_per_second": 0.8,
        "tokens_per_second": 20,
        "trainer_idle": 0.6,
        "generation_idle": 0.45,
        "mean_staleness": 0,
    }
    assert run["measured"] == pytest.approx(expected)
    assert run["predicted"] == pytest.approx(expected, rel=0.01)
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:8] == ["by-hand", "1", "8", "2", "0", "25.0", "0.80", "0.80"]
    assert line[9:] == ["60%", "60%", "45%", "45%", "0.00", "0.00"]


def test_rates_of_another_run(folder, tmp_path):
    """Slots and lengths are the run's own; a trainer that takes 13 s instead of 3."""
    recorded = read_run(folder)
    rates = fit_rates(recorded, 2, {}).rates
    other = replace(
        rates,
        server=replace(rates.server, slots=1),
        trainer=replace(rates.trainer, step_seconds=13.0, token_seconds=0.0),
        response_tokens=Fixed(1),
    )
    run = Measurement.of_run(recorded, 2, other)
    assert run.rates.server.slots == 8
    assert run.rates.response_tokens == rates.response_tokens
    assert run.predicted()["samples_per_second"] == pytest.approx(8 / 20, rel=0.01)
    file = tmp_path / "rates.json"
    write_rates(file, other)
    assert main(["bench", "predict", str(folder), "--rates", str(file)]) == 0


def test_a_slow_server(folder):
    """Half as fast as the rates say: 11 s instead of 5.5."""
    run = Measurement.of_run(read_run(folder), 2)
    slow = replace(run, setting=replace(run.setting, speeds={0: 0.5}))
    assert slow.predicted()["samples_per_second"] == pytest.approx(8 / 15.5, rel=0.01)
    assert "1 (0: x0.50)" in runs_table([slow.as_json()])


def test_what_is_stored_is_enough_to_simulate_again(folder):
    run = Measurement.of_run(read_run(folder), 2)
    run = replace(run, setting=replace(run.setting, speeds={0: 0.5}))
    stored = json.loads(json.dumps(run.as_json()))
    assert Measurement.of_json(stored) == run
    assert Measurement.of_json(stored).predicted() == stored["predicted"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--warmup", "-1"], "--warmup: expected a number >= 0, found -1"),
        (["--warmup", "8"], "--warmup: expected fewer than the run's 8 steps"),
        (["--rates", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input(folder, capsys, arguments, words):
    assert main(["bench", "predict", str(folder), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_no_run(tmp_path, capsys):
    assert main(["bench", "predict", str(tmp_path)]) == 2
    assert "--run: expected" in capsys.readouterr().err


def test_a_run_without_traces(tmp_path, capsys):
    folder = hand.write_run(tmp_path / "run", traces=False)
    assert main(["bench", "predict", str(folder), "--warmup", "1"]) == 2
    assert "session_tracer.enabled=true" in capsys.readouterr().err
