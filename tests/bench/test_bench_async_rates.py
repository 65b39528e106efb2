"""Rates fitted from a run: known ones are found again.

The sessions are made by a server whose token takes `A + B * n` seconds with n requests
running, and half as long again while the trainer computes.
"""

from __future__ import annotations

import json
from random import Random

import pytest

from areal_cppo.bench.async_rates import NO_PREFILL, fit_rates, read_rollout
from areal_cppo.bench.async_run import RecordedRun, Side
from areal_cppo.cli.main import main
from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Empirical, Fixed
from areal_cppo.plan.rates import read_rates
from areal_cppo.report.runs import RunContents
from areal_cppo.report.timeline import Timeline
from areal_cppo.report.trace import Session
from tests.bench import run_by_hand as hand

A, B, LENGTH, SLOWDOWN = 0.02, 0.001, 25, 1.5
SLOTS = 16


def recorded(
    tmp_path,
    slowdown: float,
    gpus: int = 0,
    rounds: int = 120,
    numbers=(4, 8, 16),
    speeds=(1.0,),
):
    """Rounds of so many requests that start and end together; those beyond the slots
    take turns with the others. A round is one server's, each in turn."""
    random, now = Random(1), 0.0
    sessions, computing = [], []
    for number in range(rounds):
        server = number % len(speeds)
        n = random.choice(numbers)
        busy = random.random() < 0.5
        running = min(n, SLOTS)
        seconds = LENGTH * (A + B * running) * n / running
        seconds *= (slowdown if busy else 1.0) / speeds[server]
        if busy:
            computing.append((now, now + seconds, "update"))
        sessions += [Session(server, 0, now, now + seconds, "accepted", 0.25)] * n
        now += seconds
    records = []
    for number in range(1, 13):
        record = hand.record(1) | {"step": number, "samples": 8 * number}
        length = 30.0 + number
        tokens = 8 * length
        record["seconds"], record["step_seconds"] = number * now / 12, now / 12
        times = {"train_step": 0.5 + 0.002 * tokens, "update_weights": 0.3}
        stats = {f"timeperf/{name}": seconds for name, seconds in times.items()}
        stats |= {"ppo_actor/n_seqs": 8.0, "ppo_actor/seq_len/avg": length}
        record |= {"stats": stats, "seconds_weights": 0.3}
        waited = now / 12 - sum(times.values()) - 0.1
        record |= {"seconds_rollout": waited}
        records.append(record)
    run = RunContents(
        tmp_path,
        metrics=records,
        timeline=Timeline([], computing, []),
        config={"sglang": {"max_running_requests": SLOTS}},
    )
    return RecordedRun(
        run, sessions, [], "GPU" if gpus else "process", Side(2, 1), Side(4, 2)
    )


def test_a_decode_curve_from_sessions(tmp_path):
    rates = fit_rates(recorded(tmp_path, 1.0), 0, {"command": "x"}).rates
    assert rates.server.slots == SLOTS and rates.server.gpus == 2
    assert [n for n, _ in rates.server.decode] == [1, 2, 4, 8, 16]
    for n, rate in rates.server.decode:
        assert rate == pytest.approx(n / (A + B * n), rel=0.05)
    assert rates.contention.server_slowdown == pytest.approx(1.0, abs=0.051)
    assert rates.reward_seconds == 0.25
    assert rates.measured["command"] == "x"


def test_more_requests_than_slots(tmp_path):
    """They wait for a slot, and are not taken for running meanwhile."""
    rates = fit_rates(recorded(tmp_path, 1.0, numbers=(4, 8, 32, 48)), 0, {}).rates
    for n, rate in rates.server.decode:
        assert rate == pytest.approx(n / (A + B * n), rel=0.05)


def test_a_slow_server(tmp_path):
    """The curve is the faster one's."""
    run = recorded(tmp_path, 1.0, speeds=(0.25, 1.0))
    rates, speeds = fit_rates(run, 0, {})
    assert speeds == {0: pytest.approx(0.25, rel=0.05)}
    for n, rate in rates.server.decode:
        assert rate == pytest.approx(n / (A + B * n), rel=0.05)


def test_slowdown_where_processors_are_shared(tmp_path):
    rates = fit_rates(recorded(tmp_path, SLOWDOWN), 0, {}).rates
    assert rates.contention.server_slowdown == pytest.approx(SLOWDOWN, abs=0.051)
    for n, rate in rates.server.decode:
        assert rate == pytest.approx(n / (A + B * n), rel=0.05)


def test_no_slowdown_on_gpus(tmp_path):
    rates = fit_rates(recorded(tmp_path, SLOWDOWN, gpus=8), 0, {}).rates
    assert rates.contention.server_slowdown == rates.contention.trainer_slowdown == 1


def test_a_trainers_step(tmp_path):
    """0.1 s are neither computing nor waiting; the 8 x 31 to 8 x 42 tokens vary by a
    tenth, about, and so a line is fitted; two ranks share them."""
    rates = fit_rates(recorded(tmp_path, 1.0), 2, {}).rates
    assert rates.trainer.gpus == 2
    seconds = rates.trainer.seconds(8 * 36, 2)
    assert seconds == pytest.approx(0.5 + 0.002 * 8 * 36 + 0.1, rel=0.02)
    assert rates.weights.update_seconds == pytest.approx(0.3)
    assert rates.weights.resume_seconds == 0.05


def test_lengths(tmp_path):
    """The histogram says 20.5 and 29.5, as often; its mean is the exact one, 25."""
    run = recorded(tmp_path, 1.0)
    rates = fit_rates(run, 0, {}).rates
    assert rates.response_tokens == Empirical((20,) * 48 + (30,) * 48)
    assert rates.response_tokens.mean == 25
    for record in run.metrics:
        del record["response_tokens_histogram"]
    assert fit_rates(run, 0, {}).rates.response_tokens == Fixed(25)


def test_a_decode_curve_from_bench_rollout(tmp_path):
    points = [
        {
            "concurrency": n,
            "weight_update": update,
            "complete": True,
            "tokens_per_second": 2 * n / (A + B * n),
            "first_token_seconds": {"p50": 0.05},
        }
        for n in (4, 8, 16, 64)
        for update in (False, True)
    ]
    points.append(dict(points[0], concurrency=2, complete=False))
    document = {
        "points": points,
        "servers": ["a:1"],
        "workload": {"prompt_tokens_with_image": 10},
    }
    file = tmp_path / "rollout.json"
    file.write_text(json.dumps(document))
    rates = fit_rates(recorded(tmp_path, 2.0), 0, {}, read_rollout(str(file))).rates
    assert [n for n, _ in rates.server.decode] == [4, 8, 16]
    assert rates.server.decode[0][1] == pytest.approx(2 * 4 / (A + B * 4))
    assert rates.server.prefill_tokens_per_second == NO_PREFILL
    assert rates.measured["decode"] == "bench rollout"


def test_files_that_are_none(tmp_path):
    file = tmp_path / "x.json"
    for text in ("", "[]", '{"points": []}', '{"points": [1]}'):
        file.write_text(text)
        with pytest.raises(UserError, match="--rollout: expected a file that"):
            read_rollout(str(file))
    with pytest.raises(UserError, match="name another"):
        read_rollout(str(tmp_path / "none"))


def test_too_little_to_fit(tmp_path, capsys):
    folder = hand.write_run(tmp_path / "run", traces=False)
    rates = str(tmp_path / "rates.json")
    assert main(["bench", "async", "--run", str(folder), "--rates", rates]) == 2
    assert "--rates: expected a run with AReaL's" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected at least 16 responses"):
        fit_rates(recorded(tmp_path, 1.0, rounds=2), 6, {})


def test_the_command_writes_what_plan_reads(tmp_path, monkeypatch, capsys):
    import areal_cppo.bench.async_run as async_run

    run = recorded(tmp_path, SLOWDOWN)
    monkeypatch.setattr(async_run, "read_run", lambda folder: run)
    file = tmp_path / "rates.json"
    assert main(["bench", "async", "--run", "x", "--rates", str(file)]) == 0
    rates = read_rates(file)
    assert rates.server.slots == SLOTS
    assert {"command", "machine", "date", "run", "steps"} <= rates.measured.keys()
    assert f"rates: {file}" in capsys.readouterr().out
