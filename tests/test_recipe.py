"""Recipes for GPUs, with the tiny model, from start to end on this machine's CPUs.

Their own settings but for what `HERE` and each test change, and why. So bfloat16 with
float32 master weights, gradient checkpointing, weights over the wire (gloo in NCCL's
place) or adapters by disk, SGLang's warm-up, the token, the loaders of the data, the
reference policy, mini-batches and checkpoints are those that GPUs will meet. What a
trainer computes with each recipe's settings is in step/test_recipe_actors.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from areal_cppo.folder import STARTED
from areal_cppo.tasks.drawings import draw_triangle
from areal_cppo.tasks.problems import TRIANGLES
from tests.data.problem_files import encoded, virl39k, write_images_table

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIGS = Path(__file__).parents[1] / "configs"
START_SECONDS = 400  # generous: the machine may be busy
WORKER = "python3 -m areal.infra.rpc.rpc_server"
HERE = {
    # No GPU.
    "cluster.n_gpus_per_node": "0",
    "actor.scheduling_spec": f"[{{port_count: 2, gpu: 0, cpu: 1, cmd: {WORKER}}}]",
    "actor.attn_impl": "sdpa",
    # Two cores and a few GiB of memory.
    "train_dataset.batch_size": "8",
    "sglang.mem_fraction_static": "0.1",
    "sglang.max_total_tokens": "16384",
    # A model of 29 words and 256 positions.
    "actor.path": str(TRIANGLES.checkpoint),
    "data.instruction": "''",
    "data.max_prompt_tokens": "64",
    "gconfig.max_new_tokens": "44",
    "sglang.context_length": "256",
}


def triangles(count: int) -> list[tuple[bytes, str]]:
    """Pictures, and sums of sides: the tiny model reads some of them."""
    rng, drawn = random.Random(0), []
    for _ in range(count):
        sides = tuple(rng.randint(1, 9) for _ in range(3))
        drawn.append((encoded(draw_triangle(sides, rng)), str(sum(sides))))
    return drawn


@pytest.fixture
def geometry3k(tmp_path) -> Path:
    """Triangles in the schema of hiyouga/geometry3k."""
    folder = tmp_path / "geometry3k"
    for split, count in (("train", 32), ("test", 8)):
        rows = [
            {"images": [picture], "problem": "<image>P?", "answer": answer}
            for picture, answer in triangles(count)
        ]
        write_images_table(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Triangles in the schema of TIGER-Lab/ViRL39K; every third problem is a sum in
    words, without a picture."""
    folder = tmp_path / "virl39k"
    pictures = triangles(16)
    rows = [
        {
            "question": "<image>P?",
            "answer": f"\\boxed{{{answer}}}",
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": 0.5,
            "category": "made up",
            "source": "made up",
            "qid": f"picture-{i}",
            "image": [f"images/{i}.png"],
        }
        for i, (_, answer) in enumerate(pictures)
    ]
    for i in range(0, 24, 3):
        words = {"question": "1+2?", "answer": "\\boxed{3}", "image": []}
        rows.insert(i, rows[0] | words | {"qid": f"words-{i}"})
    virl39k(folder, rows, n=0)
    (folder / "images").mkdir()
    for i, (picture, _) in enumerate(pictures):
        (folder / "images" / f"{i}.png").write_bytes(picture)
    return folder


def train(name: str, run: Path, data: Path, steps: int, **more) -> subprocess.Popen:
    settings = HERE | {
        "run_dir": str(run),
        "train_dataset.path": str(data),
        "total_train_steps": str(steps),
        **more,
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "areal_cppo", "train"),
            *("--config", str(CONFIGS / name)),
            *(f"{key}={value}" for key, value in settings.items()),
        ],
        env=os.environ | {"HF_DATASETS_CACHE": str(run.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What it said, once it has ended with that status."""
    output, _ = process.communicate(timeout=2 * START_SECONDS)
    assert process.returncode == status, output[-3000:]
    return output


def records(file: Path) -> list[dict]:
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def assert_finished(run: Path, steps: int, fresh: int) -> list[dict]:
    """Every step was made once, on samples of the policy that is trained: at least so
    many steps had only fresh ones. Returns the records."""
    made = records(run / "metrics.jsonl")
    assert [step["step"] for step in made] == list(range(1, steps + 1))
    assert [step["version"] for step in made] == list(range(steps))
    unmixed = [step for step in made if step["staleness_max"] == 0]
    assert len(unmixed) >= fresh
    for step in unmixed:  # bfloat16 on both sides
        assert step["behaviour_importance_weight"] == pytest.approx(1, abs=0.02)
    for step in made:
        assert step["stats"]["ppo_actor/update/update_successful"] == 1
        assert step["cpl_loss"] > 0 and step["cpl_selected_per_response"] > 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == steps
    lost = {"vision_token", "group_dropped"}  # the tiny model samples such tokens
    assert not any(n for why, n in summary["refused"].items() if why not in lost)
    events = [event["event"] for event in records(run / "events.jsonl")]
    assert "server_down" not in events and events[-1] == "run_finished"
    (log,) = run.glob("areal/logs/*/*/*/rollout.log")
    assert "Exception in ASGI" not in log.read_text()  # of a server, which then goes on
    return made


def test_start_stop_resume_end(tmp_path, geometry3k):
    """Asynchronous CPPO, two trainers and two servers; three updates or more."""
    name, run, steps = "qwen2_5_vl-3b_geometry3k.yaml", tmp_path / "run", 4
    two = {"actor.backend": "fsdp:d2", "rollout.backend": "sglang:d2"}
    first = train(name, run, geometry3k, steps, **two)
    deadline = time.monotonic() + START_SECONDS
    while len(records(run / "metrics.jsonl")) < 2:
        assert first.poll() is None, first.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "too few steps were finished"
        time.sleep(0.5)
    (run / "STOP").touch()
    finish(first, status=75)
    stopped = len(records(run / "metrics.jsonl"))
    assert 2 <= stopped < steps
    output = finish(train(name, run, geometry3k, steps, **two))
    assert f"going on after step {stopped}" in output
    assert_finished(run, steps, fresh=2)  # the first of each start
    assert (run / "checkpoints" / f"step-{steps:05}" / "model.safetensors").is_file()
    assert list(run.glob("areal/checkpoints/**/epoch0*/model.safetensors"))
    before, after = records(run / "evaluations.jsonl")  # validation.every: 20
    assert (before["step"], after["step"]) == (0, steps)
    assert len(before["correct"]) == len(after["correct"]) == 8
    assert not before["refused"] and not after["refused"]


def test_the_published_recipe_on_text_and_images(tmp_path, mixed):
    """A reference policy, eight mini-batches, synchronous; one trainer, one server."""
    run = tmp_path / "run"
    alone = {"actor.backend": "fsdp:d1", "rollout.backend": "sglang:d1"}
    name = "qwen2_5_vl-3b_virl39k_published.yaml"
    finish(train(name, run, mixed, 3, **alone))
    for step in assert_finished(run, 3, fresh=3):
        assert step["stats"]["ppo_actor/kl_rewards/min"] < 0  # to the reference policy
        assert 0 < step["cpl_gated_responses"] < 40


def test_adapters_by_disk(tmp_path, geometry3k):
    """LoRA with its bfloat16 optimiser; SGLang loads each version's adapter. Half of a
    group is sampled from noisy images, as NoisyRollout does.

    Killed while it validates after step 2, the run makes that step anew, and goes on
    without a gap and without a repeat.
    """
    run = tmp_path / "run"
    here = {
        "actor.fsdp.offload_params": "false",  # torch asks for a GPU
        "sglang.lora_backend": "torch_native",  # triton does, too
        "recover.freq_steps": "1",
        "validation.every": "1",
        "validation.k": "8",
        "augmentation": "{views: [{name: diffusion_noise, steps: 200}], of: responses, "
        "share: 0.5, train_on: original, fades: true}",
    }
    name = "qwen2_5_vl-3b_geometry3k_lora_24gb.yaml"
    running = train(name, run, geometry3k, 3, **here)
    deadline = time.monotonic() + START_SECONDS
    while not records(run / "validation" / "step-00002" / "responses.jsonl"):
        assert running.poll() is None, running.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "it did not validate"
        time.sleep(0.05)
    events = records(run / "events.jsonl")
    controller = next(e["pid"] for e in events if e["event"] == STARTED)
    os.kill(controller, signal.SIGKILL)
    assert [line["step"] for line in records(run / "evaluations.jsonl")] == [0, 1]
    assert "going on after step 1" in finish(running)
    for step in assert_finished(run, 3, fresh=1):
        assert step["augmented_share"] == 0.5
    validated = records(run / "evaluations.jsonl")
    assert [line["step"] for line in validated] == [0, 1, 2, 3]
    for line in validated:
        assert (line["n"], line["k"], line["refused"]) == (8, 8, {})
        answers = run / "validation" / f"step-{line['step']:05d}" / "responses.jsonl"
        keys = [(r["index"], r["sample"]) for r in records(answers)]
        assert len(set(keys)) == len(keys) == 8 * 9
    logged = [r.get("validation_accuracy") for r in records(run / "metrics.jsonl")]
    assert logged == [line["accuracy"] for line in validated[1:]]
    adapter = run / "checkpoints" / "step-00003" / "adapter_model.safetensors"
    assert adapter.is_file()
