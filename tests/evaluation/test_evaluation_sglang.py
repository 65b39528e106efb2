"""`areal-cppo eval` from end to end, on a checkpoint that the trainer wrote.

So it is tested too that such a checkpoint loads in SGLang and in plain transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch

from areal_cppo.cli.common import config_file
from areal_cppo.serving.processes import processes_of_run, run_environment
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import load_model
from areal_cppo.tasks.problems import TRIANGLES

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(600)]

N, K = 100, 4
TIES = 2  # of N; logits that are equal to float32's last digits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "step-00001"
    script = Path(__file__).parent / "trained_checkpoint.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def test_a_step_was_trained(checkpoint):
    before, after = (load_model(f) for f in (TRIANGLES.checkpoint, checkpoint))
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_accuracy_is_that_of_transformers(checkpoint, tmp_path):
    run_id = f"test-{uuid.uuid4()}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "areal_cppo", "eval", "--out", str(tmp_path)),
            *("--model", str(checkpoint), "--k", str(K), "--limit", str(N)),
            *("--config", str(config_file("triangles.yaml"))),
        ],
        env={**os.environ, **run_environment(run_id)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert processes_of_run(run_id) == []

    result = json.loads((tmp_path / "evaluation.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "responses.jsonl").open()]
    assert result["finished"] and result["refused"] == {}
    model = load_model(checkpoint)
    problems = [TRIANGLES.make_problem(0, index, "held_out") for index in range(N)]
    expected = sampling.evaluate(model, problems)
    greedy = {r["index"]: r["correct"] for r in records if r["sample"] == "greedy"}
    pairs = zip(expected["correct"], (greedy[index] for index in range(N)), strict=True)
    assert sum((theirs == "1") != ours for theirs, ours in pairs) <= TIES
    assert result["greedy"]["accuracy"] == pytest.approx(
        expected["accuracy"], abs=TIES / N
    )
    # Other draws of the same distribution, so within its interval of another such one.
    sampled = result["average_at_k"]
    assert sampled["responses"] == N * K
    draws = [
        sampling.evaluate(model, problems, temperature=1.0, seed=seed)["accuracy"]
        for seed in range(K)
    ]
    low, high = sampled["interval"]
    assert low <= sum(draws) / K <= high
    assert 0.9 < sampled["format"] <= 1
