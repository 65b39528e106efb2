"""CPPO on two data-parallel ranks over gloo: the same gradient as one rank, no hang.

Every case runs in the same pair of processes (see ranks.py), and on one rank.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import harness
import pytest
import ranks
import torch

CASES = [
    (aggregation, share, spec)
    for aggregation in ranks.AGGREGATIONS
    for share in ranks.SHARES
    for spec in ranks.SPECS
]
SECONDS = 240  # a hang ends here, and fails


def run_ranks(world: int, model: Path, out: Path):
    environment = {
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(harness.free_port()),
    }
    command = [sys.executable, str(Path(ranks.__file__)), str(model), str(out)]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    return torch.load(out)


@pytest.fixture(scope="module")
def results(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return [run_ranks(n, model_folder, folder / f"{n}.pt") for n in (1, 2)]


@pytest.mark.parametrize("case", CASES, ids=" / ".join)
def test_two_ranks_equal_one(results, case):
    (one, one_stats), (two, two_stats) = results[0][case], results[1][case]
    assert one.norm() > 1
    assert harness.relative_difference(two, one) < 1e-5
    assert two_stats == pytest.approx(one_stats, rel=1e-4)
    assert two_stats["cpl/view_sequences"] == 3  # responses, whatever the ranks
