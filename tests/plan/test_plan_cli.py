"""`areal-cppo plan`: numbers, picture, progress, mistakes, Ctrl-C, a run's folder.

Covers the whole command on small clusters, and folders that say too little. Not
covered: the rates fitted from a run, for which see tests/bench.
"""

from __future__ import annotations

import json

import pytest
import yaml

from areal_cppo.bench.async_rates import Fitted
from areal_cppo.cli.main import main
from areal_cppo.plan import search as search_module
from areal_cppo.plan.setting import Setting, run_setting

QUICK = ("--gpus", "4", "--batch", "4", "--group", "2", "--steps", "3", "--tries", "2")


@pytest.fixture
def file(document, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(document()))
    return str(path)


CONFIG = {
    "train_dataset": {"batch_size": 2},
    "gconfig": {"n_samples": 2, "max_new_tokens": 32},
    "rollout": {"backend": "sglang:d3p1t2", "max_head_offpolicyness": 1},
    "actor": {"backend": "fsdp:d2p1t1"},
}


@pytest.fixture
def run(tmp_path):
    """A run of two steps, without traces."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = [
        {"step": step, "seconds": 9.0 * step, "step_seconds": 9.0, "samples": 4 * step}
        for step in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_numbers_picture_and_table(file, tmp_path, capsys):
    numbers, picture = tmp_path / "out" / "plan.json", tmp_path / "plan.png"
    outputs = ("--json", str(numbers), "--plot", str(picture))
    assert main(["plan", "--rates", file, *QUICK, *outputs]) == 0
    printed = capsys.readouterr()
    assert "recommended: " in printed.out and "not modelled:" in printed.out
    assert "simulation: 4 GPUs" in printed.out
    assert printed.err.splitlines()[0].startswith("1/11: all GPUs take turns: ")
    document = json.loads(numbers.read_text())
    assert document["complete"] and document["gpus"] == 4
    assert {c["staleness"] for c in document["candidates"]} == {0, 1, 2, 4, 8}
    assert document["not_modelled"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_the_same_plan(file, tmp_path, capsys):
    texts = []
    for _ in range(2):
        assert main(["plan", "--rates", file, *QUICK, "--seed", "7"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_exact_admission_keeps_to_the_bound(file, tmp_path):
    numbers = tmp_path / "plan.json"
    options = ("--exact", "--staleness", "1", "--json", str(numbers))
    assert main(["plan", "--rates", file, *QUICK, *options]) == 0
    for best in json.loads(numbers.read_text())["best"]:
        assert best["outcome"]["max_staleness"] <= 1


def test_ctrl_c_keeps_what_is_done(file, tmp_path, capsys, monkeypatch):
    calls = []

    def simulate(rates, setting, original=search_module.simulate):
        calls.append(setting)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(rates, setting)

    monkeypatch.setattr(search_module, "simulate", simulate)
    numbers, picture = tmp_path / "plan.json", tmp_path / "plan.svg"
    outputs = ("--json", str(numbers), "--plot", str(picture))
    assert main(["plan", "--rates", file, *QUICK, *outputs]) == 130
    printed = capsys.readouterr()
    assert "interrupted; what was simulated is kept" in printed.err
    assert "recommended: " in printed.out
    document = json.loads(numbers.read_text())
    assert document["complete"] is False
    assert sum("outcome" in c for c in document["candidates"]) == 2
    assert picture.exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--gpus", "0"), "--gpus: expected 2 (1 for a server, 1 for a rank of the"),
        (("--gpus", "1"), "--gpus: expected 2"),
        (("--gpus", "-8"), "--gpus: expected 2"),
        (("--batch", "0"), "--batch: expected a whole number >= 1, found 0"),
        (("--group", "-1"), "--group: expected a whole number >= 1, found -1"),
        (("--steps", "0"), "--steps: expected a whole number >= 1, found 0"),
        (("--tries", "0"), "--tries: expected"),
        (("--seed", "-1"), "--seed: expected a whole number >= 0, found -1"),
        (("--concurrent", "0"), "--concurrent: expected a whole number >= 1, found 0"),
        (("--staleness", "1,-2"), "--staleness: expected whole numbers from 0 to 64"),
        (("--staleness", ""), "--staleness: expected whole numbers"),
        (("--plot", "plan.txt"), "--plot: expected a name that ends in .png, .svg or"),
        (("--json", "/proc/none/plan.json"), "--json: expected a file that can be wr"),
    ],
)
def test_a_mistake_is_told_in_one_line(file, capsys, options, line):
    assert main(["plan", "--rates", file, *QUICK, *options]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and line in told and told.count("; ") >= 1


def test_negative_rates(document, tmp_path, capsys):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(document(("trainer.token_seconds", -1))))
    assert main(["plan", "--rates", str(path), *QUICK]) == 2
    told = capsys.readouterr().err
    assert "trainer.token_seconds: expected a number >= 0, found -1" in told


def test_what_a_run_was_set_to():
    setting = run_setting(CONFIG, "run")
    assert (setting.batch, setting.group, setting.staleness) == (2, 2, 1)
    assert (setting.concurrent, setting.servers, setting.ranks) == (2, 3, 2)
    slow = setting.simulated(steps=9, warmup=2, speeds={0: 0.5})
    assert slow == Setting(
        3, 2, 2, 2, 1, steps=9, warmup=2, concurrent=2, speeds={0: 0.5}
    )


def test_a_plan_from_a_run(run, rates, capsys, monkeypatch):
    monkeypatch.setattr(
        "areal_cppo.bench.async_rates.fit_rates", lambda *_: Fitted(rates(), {})
    )
    options = ("--gpus", "6", "--steps", "3", "--tries", "2", "--staleness", "0,1")
    assert main(["plan", "--run", str(run), *options]) == 0
    assert "6 GPUs, 2 prompts a step, 2 responses each" in capsys.readouterr().out


def test_runs_of_which_nothing_can_be_learnt(run, tmp_path, capsys):
    def told(folder) -> str:
        assert main(["plan", "--run", str(folder), "--gpus", "8"]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "--run: expected a run's folder with at least one of" in told(empty)
    assert "found none" in told(tmp_path / "nowhere")
    assert "--run: expected a run with AReaL's statistics and traces" in told(run)
    (run / "config.yaml").write_text("seed: 1\n")
    assert "expected config.yaml of a run" in told(run)
    (run / "metrics.jsonl").unlink()
    assert "expected a run with train steps, found none" in told(run)


def test_either_rates_or_a_run(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--gpus", "8"])
    assert stopped.value.code == 2
