"""The demo with real AReaL and real SGLang, a few steps long, and ways to end it.

Each run takes a minute or so to start. What it learns is not looked at here: a few
steps teach nothing (see README for the figures of whole runs).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from areal_cppo.tasks.problems import TRIANGLES

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(900)]

START_SECONDS = 400  # generous: the machine may be busy
END_SECONDS = 60  # the promise
MARK = "AREAL_CPPO_TEST_RUN"  # in the environment of all that a demo starts
SCHEDULER = "sglang::scheduler"  # in its command line


def start(out: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "areal_cppo", "demo", "--out", str(out), *arguments],
        env=os.environ | {MARK: str(out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(out: Path) -> list[psutil.Process]:
    """Living processes that a demo started, itself included; nobody else's.

    Told by their environment, and by the folder in their command line.
    """
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            marked = process.environ().get(MARK) == str(out)
            if alive and (marked or str(out) in " ".join(process.cmdline())):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for_step(out: Path, demo: subprocess.Popen, step: int = 1) -> None:
    deadline, metrics = time.monotonic() + START_SECONDS, out / "metrics.jsonl"
    while not metrics.is_file() or len(records(metrics)) < step:
        assert demo.poll() is None, demo.stdout.read()
        assert time.monotonic() < deadline, "too few steps were finished"
        time.sleep(0.5)


def kill(out: Path, name: str, most: int = 100) -> None:
    """Kill up to so many processes of a demo that have `name` in their command."""
    for process in processes_of(out):
        try:
            if most and name in " ".join(process.cmdline()):
                process.kill()
                most -= 1
        except psutil.NoSuchProcess:  # a zombie, too
            continue


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_servers_have_the_trainers_weights(steps: list[dict]) -> None:
    """The log-probs of fresh samples (SGLang's) are the trainer's, token by token."""
    fresh = [step["stats"] for step in steps if step["staleness_max"] == 0]
    assert fresh
    for stats in fresh:
        for end in ("min", "max"):
            assert abs(stats[f"ppo_actor/update/behave_approx_kl/{end}"]) < 1e-3


def assert_samples(out: Path, steps: list[dict]) -> None:
    """Of each step four responses, with what the step knew of them; all of it shown."""
    for step in steps:
        file = out / "samples" / f"step-{step['step']:05d}.json"
        samples = json.loads(file.read_text())
        assert len(samples["responses"]) == 4
        for record in samples["responses"]:
            parts = record["parts"]
            weighed = 0.9 * parts["answer"] + 0.1 * parts["format"]
            assert record["reward"] == pytest.approx(weighed)
            assert record["staleness"] <= step["staleness_max"]
            gained = any(record["tokens"].get("gain", ()))
            assert gained == (record["advantage"] > 0)
            assert bool(record["tokens"]) == ("negative" in record["pictures"])
            for name in record["pictures"].values():
                assert (out / "samples" / name).is_file()
        assert all(each["reason"] for each in samples["refused"])
    assert list(out.glob("areal/logs/**/media/table/samples_*.json"))
    page = (out / "report.html").read_text()
    assert all(f"Step {step}\n" in page for step in (1, 3, 4))


@pytest.mark.smoke
def test_a_few_steps(tmp_path):
    """Stock SGLang and AReaL, asynchronously, with every logger on."""
    out = tmp_path / "run=1"
    demo = start(
        out,
        *("--steps", "4", "--seed", "3", "heldout.size=16"),
        "stats_logger.wandb.mode=offline",
        f"stats_logger.tensorboard.path='{tmp_path / 'tensorboard'}'",
    )
    output, _ = demo.communicate(timeout=START_SECONDS + 300)
    assert demo.returncode == 0, output[-3000:]
    assert "report.html" in output.splitlines()[-1]
    assert "\x1b" not in output  # piped: no control characters

    steps = records(out / "metrics.jsonl")
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    # Asynchronous: samples of an earlier version are trained on, within the bound.
    later = [r for r in steps if r["staleness_max"] > 0]
    assert later and all(r["staleness_max"] <= r["version"] for r in steps)
    for record in steps:
        assert record["samples"] <= 64 * record["step"]
        assert "warnings" not in record  # of the demo's own settings
        assert 0 < record["cpl_gated_share"] < 1
        gated = record["stats"]["ppo_actor/update/cpl/gated_responses"]
        assert record["cpl_view_sequences"] == gated
        assert record["cpl_loss"] > 0 and record["cpl_selected_per_response"] > 0
        # Behaviour (SGLang) and proximal (trainer) log-probs are of the same policy.
        if record["staleness_max"] == 0:
            assert record["behaviour_importance_weight"] == pytest.approx(1, abs=0.01)
    versions = [r["version"] for r in steps]
    assert versions == [0, 1, 2, 3]

    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["seed"] == 3
    assert summary["objective"] == "cppo" and summary["accuracy_n"] == 16
    assert summary["accuracy_before"] is not None
    assert summary["accuracy_after"] is not None
    assert summary["overlap_share"] > 0 and summary["max_staleness"] >= 1
    refused = summary["refused"]
    assert {"vision_token", "reward_error", "request_failed"} < set(refused)
    assert not any(n for reason, n in refused.items() if reason != "vision_token")

    assert list(tmp_path.glob("tensorboard/events.*"))
    assert_samples(out, steps)
    (offline,) = out.glob("areal/logs/**/run-*.wandb")
    for name in (b"cpl/negative_divergence", b"cppo/trainer_idle_share"):
        assert name in offline.read_bytes()
    samples = json.loads((out / "samples.json").read_text())
    assert {sample["policy"] for sample in samples} == {"before", "after"}
    assert (out / "checkpoints" / "step-00004" / "model.safetensors").is_file()


@pytest.mark.parametrize("end", ["kill the scheduler", "Ctrl-C"])
def test_ends(tmp_path, end):
    """Of a server that dies and isn't started again, as if it had died too often."""
    out = tmp_path / "run"
    settings = ("heldout.size=0", "rollout.servers.restarts=0")
    demo = start(out, "--steps", "500", "--objective", "grpo", *settings)
    try:
        wait_for_step(out, demo)
        begin = time.monotonic()
        if end == "Ctrl-C":
            os.kill(demo.pid, signal.SIGINT)
        else:
            kill(out, SCHEDULER)
        output, _ = demo.communicate(timeout=END_SECONDS)
        seconds = time.monotonic() - begin
    finally:
        os.killpg(demo.pid, signal.SIGKILL) if demo.poll() is None else None
    assert demo.returncode == (130 if end == "Ctrl-C" else 1), output
    assert seconds < END_SECONDS
    last = output.strip().splitlines()[-1]
    assert re.search("interrupted|generation server.* started again 0 times", last)
    assert "Traceback" not in output
    assert not processes_of(out), "an orphan is left"
    kept = records(out / "metrics.jsonl")  # finished steps are kept
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == len(kept) >= 1
    assert (out / "report.html").is_file()


WIRE = ("actor.weight_update_mode=xccl", "heldout.size=0", "--steps")
SYNCHRONOUS = "rollout.max_head_offpolicyness=0"  # all samples are fresh


def test_a_server_lost_with_weights_over_the_wire(tmp_path):
    """It can't join again: the run ends with a line, and goes on with new servers.

    Weights over the wire in other layouts: test_recipe.py.
    """
    out = tmp_path / "run"
    recover = ("recover.mode=on", "recover.freq_steps=1")
    demo = start(out, *WIRE, "6", SYNCHRONOUS, "rollout.backend=sglang:d2", *recover)
    try:
        wait_for_step(out, demo, 2)
        kill(out, SCHEDULER, most=1)
        output, _ = demo.communicate(timeout=START_SECONDS + 300)
    finally:
        os.killpg(demo.pid, signal.SIGKILL) if demo.poll() is None else None
    assert demo.returncode == 0, output[-3000:]
    assert "starting again from the last checkpoint (1 of" in output
    why = "in a weight update over the wire|with weight_update_mode xccl it can't come"
    assert re.search(why, output), output
    steps = records(out / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, 7))
    assert_servers_have_the_trainers_weights(steps[2:])
    events = [event["event"] for event in records(out / "events.jsonl")]
    assert events.count("server_up") == 4 and "resumed" in events


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path):
    """The controller notices when it next says something, and ends the run."""
    out = tmp_path / "run"
    demo = start(out, "--steps", "500", "heldout.size=0")
    try:
        wait_for_step(out, demo)
    finally:
        demo.kill()
        demo.wait()
    deadline = time.monotonic() + END_SECONDS
    while processes_of(out) and time.monotonic() < deadline:
        time.sleep(1)
    assert not processes_of(out), "an orphan is left"


@pytest.fixture
def small_disk(tmp_path):
    """A disk with the room that a run asks for at its start, and hardly more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave room for a few lines of a log, but not for weights (3.8 MB)."""
    free = psutil.disk_usage(str(folder)).free
    with (folder / "filler").open("wb") as file:
        file.write(bytes(free - 2**20))


def test_a_disk_that_fills_up(small_disk):
    out = small_disk / "run"
    config = Path(__file__).parents[1] / "configs" / "triangles.yaml"
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "areal_cppo", "train", "--config", str(config)),
            *(f"run_dir={out}", f"actor.path={TRIANGLES.checkpoint}"),
            *("heldout.size=0", "actor.objective=grpo"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: str(out)},
    )
    deadline = time.monotonic() + START_SECONDS
    while not (out / "config.yaml").is_file():  # written once the checks have passed
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.2)
    fill(small_disk)
    _, errors = run.communicate(timeout=START_SECONDS)
    assert run.returncode == 1, errors
    assert "no space left" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not processes_of(out), "an orphan is left"
