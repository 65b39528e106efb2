"""`areal-cppo study` itself: a tiny study with the real actor, resumed, interrupted.

Not covered: what the numbers are worth (docs/evidence.md).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import yaml

from areal_cppo.cli.main import main

pytestmark = pytest.mark.slow  # some seconds a run

STUDY = {
    "steps": 3,
    "settings": {
        "train_dataset.batch_size": 2,
        "gconfig.n_samples": 4,
        "actor.optimizer.lr": 0.0005,
        "rollout.max_head_offpolicyness": 0,
    },
    "arms": {
        "grpo": {"actor.objective": "grpo"},
        "again": {"actor.objective": "grpo"},
        "cppo": {},
        "stale": {"rollout.max_head_offpolicyness": 2},
    },
    "evaluate": {"every": 2, "problems": 8, "final": 12, "tokens": 8, "gradients": 2},
    "detection": {"problems": 6, "failures": 2, "arms": ["cppo"], "views": {}},
    "keep_checkpoints": True,
}
COMMAND = [sys.executable, "-m", "areal_cppo", "study"]


def write(folder: Path, document: dict) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> SimpleNamespace:
    """In this process, which has imported AReaL: status and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        status = main(["study", *map(str, arguments)])
    return SimpleNamespace(
        returncode=status, stdout=out.getvalue(), stderr=err.getvalue()
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study's file, its folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("study")
    file = write(folder, STUDY)
    done = command(file, "--out", folder / "out", "--json", folder / "numbers.json")
    assert done.returncode == 0, done.stderr
    return file, folder / "out", done


def metrics(out: Path, arm: str) -> list[dict]:
    return lines(out / "runs" / f"triangles-{arm}-s1" / "metrics.jsonl")


def timeless(record: dict) -> dict:
    """Without what a clock has told."""
    clocks = ("time", "seconds", "per_second", "timeperf")
    return {
        key: timeless(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if not any(word in key for word in clocks)
    }


def test_files_and_table(made):
    _, out, done = made
    for name in ("curves", "selection", "differences", "detection"):
        assert (out / f"{name}.png").stat().st_size > 5000
    assert "- grpo" in done.stdout and "cppo, step 3, by view" in done.stdout
    assert (out / "summary.json").read_text() == (
        out.parent / "numbers.json"
    ).read_text()
    assert "4 of 4 runs done" in done.stderr


def test_results_are_tidy(made):
    _, out, _ = made
    results = lines(out / "results.jsonl")
    points = [(x["arm"], x["step"], x["samples"], x["n"]) for x in results]
    per_run = [(0, 0, 8), (2, 16, 8), (3, 24, 12)]
    assert points == [(arm, *point) for arm in STUDY["arms"] for point in per_run]
    for line in results:
        assert (line["study"], line["task"], line["seed"]) == ("tiny", "triangles", 1)
        assert 0 <= line["selection_precision"] <= 1
        assert line["template_negative_divergence"] >= 0
        assert line["gradient_variance"] > 0
    detection = lines(out / "detection.jsonl")
    assert {(x["arm"], x["step"]) for x in detection} == {("cppo", 0), ("cppo", 3)}
    assert {line["role"] for line in lines(out / "roles.jsonl")} >= {"R", "T"}


def test_a_second_run_is_the_same_bit_for_bit(made):
    _, out, _ = made
    first, second = metrics(out, "grpo"), metrics(out, "again")
    assert len(first) == 3
    assert list(map(timeless, first)) == list(map(timeless, second))
    one, other = (
        out / "runs" / f"triangles-{arm}-s1" / "checkpoint" / "model.safetensors"
        for arm in ("grpo", "again")
    )
    assert one.read_bytes() == other.read_bytes()


def test_arms_start_alike_and_part(made):
    """Same weights, problems and draws: the first step's responses are the same."""
    _, out, _ = made
    first = {arm: metrics(out, arm)[0] for arm in STUDY["arms"]}
    for arm in ("cppo", "stale"):
        for key in ("reward", "accuracy", "response_tokens", "policy_entropy"):
            assert first[arm][key] == first["grpo"][key]
    start = [x for x in lines(out / "results.jsonl") if x["step"] == 0]
    assert len({(x["accuracy"], x["accuracy_sampled"]) for x in start}) == 1
    assert metrics(out, "cppo")[2]["grad_norm"] != metrics(out, "grpo")[2]["grad_norm"]


def test_staleness_is_recorded(made):
    _, out, _ = made
    stale, fresh = metrics(out, "stale"), metrics(out, "cppo")
    assert [x["staleness_mean"] for x in stale] == [0, 1, 2]
    assert [x["staleness_max"] for x in fresh] == [0, 0, 0]
    # On-policy the log-probabilities of generation are the trainer's.
    assert all(abs(x["behaviour_importance_weight"] - 1) < 1e-4 for x in fresh)
    assert abs(stale[2]["behaviour_importance_weight"] - 1) > 1e-4


def test_finished_runs_are_not_repeated_and_cut_off_ones_are(made):
    file, out, _ = made
    runs = out / "runs"
    kept = runs / "triangles-grpo-s1" / "result.json"
    before = kept.stat().st_mtime_ns
    (runs / "triangles-cppo-s1" / "result.json").unlink()
    listed = command(file, "--out", out, "--dry-run")
    assert "1 of 4 runs to make" in listed.stdout
    was = timeless(metrics(out, "cppo")[2])
    done = command(file, "--out", out, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == before
    assert timeless(metrics(out, "cppo")[2]) == was  # made anew, and the same


def test_another_study_in_its_folder_is_refused(made):
    file, out, _ = made
    done = command(file, "--out", out, "steps=4")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "another steps of triangles-grpo-s1" in done.stderr


def test_a_failed_run_is_told_and_the_others_are_made(tmp_path):
    # transformers refuses it when the model is made, long after the configuration is
    # read: the package `kernels` isn't there.
    arms = {"broken": {"actor.use_kernels": True}, "grpo": STUDY["arms"]["grpo"]}
    study = STUDY | {"arms": arms, "steps": 1, "keep_checkpoints": False}
    study["evaluate"] = {"problems": 2, "final": 2, "tokens": 2}
    study["detection"] = None
    done = command(write(tmp_path, study), "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr.splitlines()[-1]
    log = tmp_path / "out" / "runs" / "triangles-broken-s1" / "log.txt"
    assert str(log) in done.stderr
    assert "Error" in log.read_text()
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 2


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    study = STUDY | {"detection": None, "keep_checkpoints": False}
    file, out = write(tmp_path, study | {"seeds": 3}), tmp_path / "out"
    arguments = [*COMMAND, str(file), "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not list(out.glob("runs/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[1]
    while len(list(out.glob("runs/*/run.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on with what is left" in printed
    with pytest.raises(ProcessLookupError):  # no worker is left, nor their server
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    finished = list(out.glob("runs/*/result.json"))
    assert finished and (out / "summary.json").is_file()
    assert len(finished) < 12
    listed = command(file, "--out", out, "--dry-run")
    assert f"{12 - len(finished)} of 12 runs to make" in listed.stdout
