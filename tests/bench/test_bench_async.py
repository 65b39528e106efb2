"""`areal-cppo bench async` on run folders worked by hand: see `run_by_hand.py`.

Covers each figure, folders that lack something, a run that was resumed, the trace's
schema, the command line. Not covered: a real training run, but for the last test.
"""

from __future__ import annotations

import json

import pytest

from areal_cppo.bench.async_figures import figures
from areal_cppo.bench.async_results import run_table
from areal_cppo.bench.async_run import Side, read_run
from areal_cppo.bench.async_trace import FIRST_SERVER, STEPS, UPDATES, rows, trace
from areal_cppo.cli.main import main
from areal_cppo.report.trace import Session
from tests.bench import run_by_hand as hand


@pytest.fixture
def folder(tmp_path):
    return hand.write_run(tmp_path / "run")


@pytest.fixture
def found(folder):
    return figures(read_run(folder), warmup=1)


def test_effective_rates(found):
    """Steps 2 and 3: 16 responses of 400 tokens in all, in 20 s."""
    assert found["steps"] == {
        "first": 2,
        "last": 3,
        "number": 2,
        "warmup": 1,
        "resumed": 0,
    }
    assert found["window_seconds"] == [10, 30] and found["seconds"] == 20
    assert found["samples"] == 16 and found["samples_per_second"] == 0.8
    assert found["tokens"] == 400 and found["tokens_per_second"] == 20


def test_the_trainers_time_adds_up(found):
    """Waits 2 + 1, computes 5.5 + 6.5, weights 1 + 1, of 20 s."""
    trainer = found["trainer"]
    assert trainer["idle_share"] == pytest.approx(3 / 20)
    assert trainer["computing_share"] == pytest.approx(12 / 20)
    assert trainer["weights_share"] == pytest.approx(2 / 20)
    assert trainer["other_share"] == pytest.approx(3 / 20)
    assert found["weight_update_seconds"]["mean"] == 1


def test_the_parts_of_a_step(found):
    """Means of steps 2 and 3; what the trainers do is 8 of an update's 9 s in both."""
    parts = found["parts"]
    assert sum(parts.values()) == pytest.approx(10)
    assert list(parts.values()) == pytest.approx(
        [1.5, 1, 0.5, 0.5, 0.1, 0.2, 0.2, 1.2, 1.6, 0.5, 0.2, 1, 1.5]
    )
    assert list(parts)[:4] == [
        "rollout wait",
        "log-probs",
        "advantages",
        "update: hand-over",
    ]
    shown = run_table(found)
    assert "update: backward" in shown and "1.60 s, 16.0%" in shown


def test_an_update_that_says_no_more_is_one_part(tmp_path):
    run = read_run(hand.write_run(tmp_path / "run"))
    for record in run.metrics:
        del record["seconds_inside"]
    parts = figures(run, 1)["parts"]
    assert parts["update"] == 4.5 and sum(parts.values()) == pytest.approx(10)


def test_generations_time(found):
    """Server 0 is busy 11-19 and 21-29, server 1 12-19, 20-22 and 25-26: in the update
    of 19-20 neither."""
    generation = found["generation"]
    assert generation["idle_share_by_server"] == pytest.approx([4 / 20, 10 / 20])
    assert generation["idle_share"] == pytest.approx(7 / 20)
    assert generation["paused_share"] == pytest.approx(2 / 20)
    assert generation["no_request_share"] == pytest.approx(5 / 20)
    open_for = 4 + 5.5 + 8 + 10 + 1
    assert generation["mean_in_flight"] == pytest.approx(open_for / 20)


def test_stages(found):
    """400 response tokens in 13 s of either server; 2 x 280 tokens of sequences."""
    stages = found["stages"]
    assert stages["generation"]["tokens_per_second"] == pytest.approx(400 / 13)
    each = stages["generation"]["tokens_per_second_per_unit"]
    assert each == pytest.approx(400 / 13 / 2)
    assert stages["update"]["tokens_per_second_per_unit"] == pytest.approx(560 / 9)
    assert stages["log-probs"]["tokens_per_second"] == pytest.approx(560 / 2)
    assert stages["advantages"]["seconds"] == 1
    assert "reference log-probs" not in stages


def test_counts(found):
    """At 19 s two responses are open, of which one is accepted; at 29 s one ends."""
    assert found["interrupted"] == {"responses": 2, "resumed": 1, "trained_on": 3}
    assert found["discarded"] == {"vision_token": 3, "problems_given_up": 0}
    stale = found["staleness"]
    assert stale["tokens"] == {"0": 100, "1": 250, "2": 50}
    assert stale["mean"] == pytest.approx(350 / 400) and stale["max"] == 2


def test_cpl(found):
    cpl = found["cpl"]
    assert cpl["seconds"] == pytest.approx(1.0)
    assert cpl["share_of_step"] == pytest.approx(1 / 20)
    assert cpl["share_of_update"] == pytest.approx(1 / 9)
    assert cpl["share_of_tokens"] == pytest.approx(140 / 700)


def test_utilisation_on_gpus(tmp_path):
    """One GPU trains: 6 operations for 560 + 140 tokens and a parameter, 2 for the 560
    of log-probs; two generate: 2 for 560. In 20 s, of 1e12 a second each."""
    run = read_run(hand.write_run(tmp_path / "run", n_gpus_per_node=8))
    assert run.unit == "GPU"
    mfu = figures(run, 1, peak_tflops=1.0, parameters=10**9)["mfu"]
    could = 20 * 1e12
    training, generation = (6 * 700 + 2 * 560) * 1e9, 2 * 560 * 1e9
    assert mfu["training"] == pytest.approx(training / could)
    assert mfu["generation"] == pytest.approx(generation / could / 2)
    assert mfu["all"] == pytest.approx((training + generation) / could / 3)
    assert figures(run, 1)["mfu"] is None  # of what, nobody said


def test_no_utilisation_without_a_gpu(folder):
    assert figures(read_run(folder), 1, 1.0, 10**9)["mfu"] is None


def test_without_traces_all_servers_are_one(tmp_path):
    run = read_run(hand.write_run(tmp_path / "run", traces=False))
    found = figures(run, 1)
    generation = found["generation"]
    assert generation["by_server"] is False
    # 11-19, 20-22 and 21-29 together: 11-19 and 20-29
    assert generation["idle_share"] == pytest.approx(1 - 17 / 20)
    assert found["interrupted"]["responses"] is None
    assert found["interrupted"]["trained_on"] == 3
    assert "interrupted responses" not in run_table(found)


def test_with_metrics_alone(tmp_path):
    folder = hand.write_run(tmp_path / "run", traces=False)
    (folder / "timeline.json").unlink()
    (folder / "config.yaml").unlink()
    found = figures(read_run(folder), 0)
    assert found["generation"] is None and "generation" not in found["stages"]
    assert found["samples_per_second"] == 0.8
    assert found["steps"]["warmup"] == 0
    assert "effective samples/s" in run_table(found)


@pytest.mark.parametrize(
    ("backend", "units", "servers"),
    [
        ("fsdp:d4p1t2", 8, 4),
        ("sglang:d2t4", 8, 2),
        ("megatron:(attn:d1p12t4|ffn:d1p12e4)", 48, 1),
        (None, 1, 1),
    ],
)
def test_gpus_and_processes_of_a_side(backend, units, servers):
    assert Side.of({"actor": {"backend": backend}}, "actor") == Side(units, servers)


def test_a_server_that_was_never_asked_is_idle(folder):
    (file,) = folder.rglob("sessions-r1.jsonl")
    file.unlink()
    shares = figures(read_run(folder), 1)["generation"]["idle_share_by_server"]
    assert shares == pytest.approx([4 / 20, 1])


def test_a_run_that_was_resumed(tmp_path):
    """It was killed at 28 s and went on from the checkpoint at 20 s: what it did from
    20 s to 28 s is lost, and its session from 21 to 29 s ends there."""
    folder = hand.write_run(tmp_path / "run")
    (file,) = folder.rglob("traces-r0.jsonl")
    second = [
        hand.clock(1100.0, 2.0, 20.0),
        {"name": "train.ppo_update", "ph": "X", "ts": 6e6, "dur": 3e6},
    ]
    with file.open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in second)
    (file,) = folder.rglob("sessions-r1.jsonl")
    record = hand.session(9, 101, 103, "accepted")  # 1101 to 1103
    with file.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    run = read_run(folder)
    updates = [p[:2] for p in run.phases if p[2] == "ppo_update"]
    assert updates == [(4, 8), (14, 18), (24, 27)]
    spans = {s.span for s in run.sessions if s.worker == 1}
    assert spans == {(12, 20), (21, 23)}
    assert {s.span for s in run.sessions if s.worker == 0} == {(11, 15), (14, 19.5)}
    assert "resumed" in run_table(figures(run, 1))


def test_rows_are_reused():
    spans = [(0, 4), (1, 2), (2, 5), (3, 6), (4, 7)]
    sessions = [Session(0, 0, begin, end, "") for begin, end in spans]
    assert rows(sessions) == [0, 1, 1, 2, 0]


def check_trace(document: dict) -> None:
    """Chrome's trace event format, as far as a run's trace uses it."""
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    named = set()
    busy: dict[tuple[int, int], int] = {}
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert event["name"] in (
                "process_name",
                "process_sort_index",
                "thread_name",
            )
            named.add(event["pid"])
            continue
        assert isinstance(event["ts"], int) and event["ts"] >= 0
        assert event["pid"] in named
        if event["ph"] == "X":
            assert isinstance(event["dur"], int) and event["dur"] >= 0
            row = event["pid"], event["tid"]
            assert event["ts"] >= busy.get(row, 0), "slices of a row overlap"
            busy[row] = event["ts"] + event["dur"]
        else:
            assert event["ph"] == "C"
            assert all(isinstance(v, int) for v in event["args"].values())


def test_the_trace(folder):
    document = trace(read_run(folder))
    check_trace(json.loads(json.dumps(document)))
    events = document["traceEvents"]
    steps = [e for e in events if e["pid"] == STEPS and e["ph"] == "X"]
    assert [(e["ts"], e["dur"]) for e in steps] == [
        (0, 10_000_000),
        (10_000_000, 10_000_000),
        (20_000_000, 10_000_000),
    ]
    updates = [e for e in events if e["pid"] == UPDATES and e["ph"] == "X"]
    assert [e["ts"] for e in updates] == [9_000_000, 19_000_000, 29_000_000]
    first = [e for e in events if e["pid"] == FIRST_SERVER and e["ph"] == "X"]
    assert [e["tid"] for e in first] == [0, 1, 0]
    assert first[1]["name"] == "response rejected"
    counts = [e for e in events if e["pid"] == FIRST_SERVER and e["ph"] == "C"]
    assert max(e["args"]["requests"] for e in counts) == 2
    assert counts[-1]["args"]["requests"] == 0


def test_a_trace_without_traces(tmp_path):
    folder = hand.write_run(tmp_path / "run", traces=False)
    document = trace(read_run(folder))
    check_trace(document)
    names = {event["name"] for event in document["traceEvents"]}
    assert {"update", "weights", "response", "step 3"} <= names


def test_the_command(folder, tmp_path, capsys):
    files = {name: tmp_path / "new" / f"x.{name}" for name in ("json", "png", "trace")}
    status = main(
        ["bench", "async", "--run", str(folder), "--warmup", "1"]
        + ["--json", str(files["json"]), "--plot", str(files["png"])]
        + ["--trace", str(files["trace"])]
    )
    assert status == 0
    document = json.loads(files["json"].read_text())
    assert document["kind"] == "async" and document["command"]
    assert document["figures"]["samples_per_second"] == 0.8
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    check_trace(json.loads(files["trace"].read_text()))
    shown = [" ".join(x.split()) for x in capsys.readouterr().out.splitlines()]
    for line in (
        "steps 2 to 3 (first 1 left out)",
        "trainer idle 15.0% (waits for responses)",
        "generation idle 35.0% (paused 10.0%, no request 25.0%)",
        "interrupted responses 2, of which resumed and accepted 1",
        "discarded vision_token 3",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--run: expected either --config FILE or --run DIR, found neither"),
        (["--run", "R", "--config", "c"], "found both"),
        (["--run", "R", "--warmup", "-1"], "--warmup: expected a number >= 0"),
        (["--run", "R", "--warmup", "3"], "--warmup: expected fewer than the run's 3"),
        (["--run", "R", "--steps", "4"], "--steps: expected with --config only"),
        (["--run", "R", "--staleness", "0,1"], "--staleness: expected with --config"),
        (["--run", "R", "--peak-tflops", "0"], "--peak-tflops: expected a number > 0"),
        (["--run", "R", "--rollout", "x"], "--rollout: expected --rates FILE beside"),
        (["--run", "R", "seed=2"], "key=value: expected with --config only"),
        (["--run", "R", "--plot", "x.doc"], "--plot: expected a name that ends in"),
        (["--run", "E"], "--run: expected a run's folder with at least one of"),
        (["--run", "N"], "--run: expected a run's folder, found none"),
        (["--run", "S"], "--run: expected a run with train steps, found none"),
        (["--run", "O"], "--run: expected samples in each line"),
        (["--config", "c", "--steps", "0"], "--steps: expected a number >= 1"),
        (["--config", "c", "--steps", "2"], "--steps: expected more than the 2 steps"),
        (["--config", "c", "--alternate", "2"], "expected with --staleness only"),
        (
            ["--config", "c", "--staleness", "0,-1", "--steps", "4"],
            "--staleness: expected different integers >= 0",
        ),
        (
            ["--config", "c", "--staleness", "0", "--steps", "4"],
            "--staleness: expected at least two different numbers",
        ),
        (["--config", "c", "--staleness", "0,1"], "--steps: expected the number of"),
        (
            ["--config", "c", "--staleness", "0,1", "--alternate", "0"],
            "--alternate: expected a number >= 1",
        ),
        (
            ["--config", "c", "--staleness", "0,1", "--trace", "T"],
            "--trace, --rates: expected of one run",
        ),
        (["--config", "c", "run_dir=x"], "run_dir=x: expected --out for it"),
        (["--config", "c", "--out", "R"], "--out: expected a new or empty folder"),
    ],
)
def test_mistakes(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hand.write_run(tmp_path / "R")
    (tmp_path / "E").mkdir()
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / "metrics.jsonl").write_text('{"step": 1, "seco')
    (tmp_path / "O").mkdir()
    old = {"step": 1, "seconds": 1.0, "step_seconds": 1.0}
    hand.write_lines(tmp_path / "O" / "metrics.jsonl", [old])
    assert main(["bench", "async", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and len(line) < 400


@pytest.mark.parametrize(("steps", "words"), [(3, "effective"), (1, "no figures: ")])
def test_a_run_that_is_cut_off_is_reported(tmp_path, monkeypatch, capsys, steps, words):
    import areal_cppo.cli.train as train

    def fake(config, overrides, name, expected=None) -> int:
        hand.write_run(tmp_path / "run", steps)
        return 130

    monkeypatch.setattr(train, "run_with_display", fake)
    command = ["bench", "async", "--config", "c.yaml", "--out", f"{tmp_path}/run"]
    assert main([*command, "--peak-tflops", "989"]) == 130
    shown = capsys.readouterr()
    assert words in shown.out + shown.err
    assert ("no model FLOP/s utilisation" in shown.err) is (steps == 3)


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """The folder of a finished run of five steps of 64 responses."""
    out = tmp_path_factory.mktemp("real") / "run"
    command = ["bench", "async", "--config", "configs/triangles.yaml", "--steps", "5"]
    assert main([*command, "--out", str(out), "heldout.size=0"]) == 0
    return out


@pytest.mark.slow
@pytest.mark.sglang
@pytest.mark.timeout(900)
def test_a_real_run(real_run, tmp_path):
    """Trained, reported, traced; its rates are a file that `plan` reads."""
    from areal_cppo.plan.rates import read_rates

    names = ("json", "trace", "rates")
    files = {name: tmp_path / f"{name}.json" for name in names}
    status = main(
        ["bench", "async", "--run", str(real_run), "--warmup", "1"]
        + [word for name in names for word in (f"--{name}", str(files[name]))]
    )
    assert status == 0
    found = json.loads(files["json"].read_text())["figures"]
    assert found["samples"] == 4 * 64 and found["samples_per_second"] > 0
    shares = found["trainer"].values()
    assert sum(shares) == pytest.approx(1, abs=0.02)
    assert 0 < found["generation"]["idle_share"] < 1
    assert found["interrupted"]["trained_on"] is not None
    check_trace(json.loads(files["trace"].read_text()))
    rates = read_rates(files["rates"])
    assert 30 < rates.response_tokens.mean < 44
