"""A run whose workers are Ray actors, on a Ray cluster of this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from areal_cppo.errors import UserError
from areal_cppo.folder import read_lines
from areal_cppo.serving.processes import processes_of_run
from areal_cppo.tasks.problems import TRIANGLES

pytest.importorskip("ray", reason="needs Ray: make setup")
pytest.importorskip("sglang", reason="needs SGLang: make setup")

CONFIG = Path(__file__).parents[1] / "configs/triangles.yaml"


def test_a_server_has_to_fit_a_node():
    """What AReaL 2.0 would start of it on another node has no token."""
    from areal_cppo.cluster.ray_actors import RayActorsScheduler

    parallel = SimpleNamespace(tp_size=8, pp_size=2)
    config = SimpleNamespace(
        rollout=SimpleNamespace(parallel=parallel),
        cluster=SimpleNamespace(n_gpus_per_node=8),
    )
    with pytest.raises(UserError, match="fit a node .*found 16 GPUs each"):
        RayActorsScheduler(config)


@pytest.mark.sglang
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_steps(tmp_path):
    from areal.infra.scheduler.ray import RayScheduler

    if hasattr(RayScheduler, "_fork_single_worker"):
        pytest.skip("since v2.0.0 AReaL's Ray scheduler takes no cluster without GPUs")
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "areal_cppo", "train", "--config", str(CONFIG)),
            *(f"run_dir={run}", f"actor.path={TRIANGLES.checkpoint}", "heldout.size=0"),
            *("total_train_steps=2", "scheduler.type=ray", "recover.mode=on"),
        ],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps == [1, 2]
    assert (run / "recover/step-00002/state.json").is_file()
    started = next(read_lines(run / "events.jsonl"))
    deadline = time.monotonic() + 30
    while processes_of_run(started["run_id"]) and time.monotonic() < deadline:
        time.sleep(1)
    assert not processes_of_run(started["run_id"]), "an orphan is left"
