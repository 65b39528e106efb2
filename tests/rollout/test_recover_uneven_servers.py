"""Servers whose number does not divide the batch: the run goes on.

Each of AReaL's rollout workers bounds staleness for its share of the batch, rounded
down. With 3 workers, 8 problems a step and bound 2 the batch of step 7 never comes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.run import supervisor
from areal_cppo.run.supervisor import supervise
from areal_cppo.tasks.problems import TRIANGLES

STEPS = 9
CONFIG = Path(__file__).parents[2] / "configs/triangles.yaml"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_servers_and_eight_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "CONTROLLER", "tests.run.deterministic")
    settings = [
        *(f"run_dir={tmp_path / 'run'}", f"actor.path={TRIANGLES.checkpoint}"),
        *(f"total_train_steps={STEPS}", "heldout.size=0", "actor.objective=grpo"),
        *("rollout.backend=sglang:d3p1t1", "rollout.max_head_offpolicyness=2"),
        *("gconfig.n_samples=2", "watchdog.step_seconds=150"),
    ]
    outcome = supervise(CONFIG, settings, tmp_path / "log", lambda event: None)
    assert outcome.status == 0, (outcome, (tmp_path / "log").read_text()[-2000:])
    steps = [line["step"] for line in read_lines(RunFolder(tmp_path / "run").metrics)]
    assert steps == list(range(1, STEPS + 1))
