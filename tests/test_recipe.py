"""The 3B's Geometry3K recipe with the tiny model on this machine's CPUs.

Its own settings, two trainers and two servers, but for what `HERE` changes and why:
bfloat16 with float32 master weights, gradient checkpointing, weights over the wire,
SGLang's warm-up, the token, the data's loader, checkpoints. It starts, trains, updates
its servers, is stopped, goes on and ends.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from problem_files import encoded, write_images_table

from areal_cppo.triangles import checkpoint_dir
from areal_cppo.triangles.drawing import draw_triangle

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(1200)]

RECIPE = Path(__file__).parents[1] / "configs" / "qwen2_5_vl-3b_geometry3k.yaml"
START_SECONDS = 400  # generous: the machine may be busy
WORKER = "python3 -m areal.infra.rpc.rpc_server"
HERE = {
    # No GPU.
    "cluster.n_gpus_per_node": "0",
    "actor.scheduling_spec": f"[{{port_count: 2, gpu: 0, cpu: 1, cmd: {WORKER}}}]",
    "actor.attn_impl": "sdpa",
    "sglang.device": "cpu",
    "sglang.attention_backend": "torch_native",
    "sglang.sampling_backend": "pytorch",
    "sglang.grammar_backend": "none",
    "sglang.disable_cuda_graph": "true",
    "sglang.disable_overlap_schedule": "true",
    # Two cores and a few GiB of memory.
    "actor.backend": "fsdp:d2",
    "rollout.backend": "sglang:d2",
    "train_dataset.batch_size": "8",
    "sglang.mem_fraction_static": "0.1",
    "sglang.max_total_tokens": "16384",
    # A model of 29 words and 256 positions.
    "actor.path": str(checkpoint_dir()),
    "data.instruction": "''",
    "data.max_prompt_tokens": "64",
    "gconfig.max_new_tokens": "44",
    "sglang.context_length": "256",
}
STEPS = 4


@pytest.fixture
def data(tmp_path) -> Path:
    """Triangles in Geometry3K's schema: the tiny model reads some of them."""
    rng, folder = random.Random(0), tmp_path / "geometry3k"
    for split, count in (("train", 32), ("test", 8)):
        rows = []
        for _ in range(count):
            sides = tuple(rng.randint(1, 9) for _ in range(3))
            picture = encoded(draw_triangle(sides, rng))
            answer = str(sum(sides))
            rows.append({"images": [picture], "problem": "<image>P?", "answer": answer})
        write_images_table(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def train(run: Path, data: Path) -> subprocess.Popen:
    settings = HERE | {
        "run_dir": str(run),
        "train_dataset.path": str(data),
        "total_train_steps": str(STEPS),
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "areal_cppo", "train", "--config", str(RECIPE)),
            *(f"{key}={value}" for key, value in settings.items()),
        ],
        env=os.environ | {"HF_DATASETS_CACHE": str(run.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(file: Path) -> list[dict]:
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def test_the_recipe(tmp_path, data):
    run = tmp_path / "run"
    first = train(run, data)
    deadline = time.monotonic() + START_SECONDS
    while len(records(run / "metrics.jsonl")) < 2:
        assert first.poll() is None, first.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "too few steps were finished"
        time.sleep(0.5)
    (run / "STOP").touch()
    output, _ = first.communicate(timeout=START_SECONDS)
    assert first.returncode == 75, output[-3000:]
    stopped = len(records(run / "metrics.jsonl"))
    assert 2 <= stopped < STEPS

    second = train(run, data)
    output, _ = second.communicate(timeout=2 * START_SECONDS)
    assert second.returncode == 0, output[-3000:]
    assert f"going on after step {stopped}" in output
    steps = records(run / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert [step["version"] for step in steps] == list(range(STEPS))
    for step in steps:
        assert step["stats"]["ppo_actor/update/update_successful"] == 1
        assert step["cpl_loss"] > 0 and step["cpl_selected_per_response"] > 0
        if step["staleness_max"] == 0:  # servers have the trainer's weights
            weight = step["behaviour_importance_weight"]
            assert weight == pytest.approx(1, abs=0.02)  # bfloat16 on both sides
    assert any(step["staleness_max"] == 0 for step in steps[stopped:])
    events = [event["event"] for event in records(run / "events.jsonl")]
    assert events.count("server_up") == 4 and "server_down" not in events
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert not any(
        count
        for reason, count in summary["refused"].items()
        if reason not in ("vision_token", "group_dropped")
    )
    assert (run / "checkpoints" / f"step-{STEPS:05}" / "model.safetensors").is_file()
