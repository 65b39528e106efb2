"""The short form of the chaos suite: one real run in which two things die.

A server is killed, and comes back; the trainer is killed, and the run starts itself
again; at the end the run is stopped by a file and gone on with. All of it, and more of
each: `make chaos`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]


def test_a_server_and_the_trainer_are_killed(tmp_path):
    results = tmp_path / "results.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--together", "--rounds", "1"),
            *("--faults", "server-kill,trainer-kill", "--seed", "7"),
            *("--out", str(tmp_path / "runs"), "--json", str(results)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    server, trainer = json.loads(results.read_text())["faults"]
    for fault in (server, trainer):
        assert fault["problems"] == []
        assert fault["trained_twice"] == fault["never_trained"] == 0
        assert fault["metrics_whole"] and not fault["orphans"]
        assert fault["final_status"] == 0
    assert server["steps_lost"] == 0 and "server back" in server["note"]
    assert trainer["steps_lost"] <= 1
