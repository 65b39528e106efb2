"""A Slurm for all tests of this folder; skips them where it can't be installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, SlurmMissing, install


@pytest.fixture(scope="session")
def slurm_cluster():
    """A running Slurm of two nodes, its clients on this process's environment."""
    try:
        install()
    except SlurmMissing as error:
        pytest.skip(f"Slurm: {error}")
    # Not pytest's folder, which user munge must not look into.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(cluster.conf))
            try:
                cluster.start()
                yield cluster
            except SlurmMissing as error:
                pytest.skip(f"Slurm: {error}")
            finally:
                cluster.stop()
