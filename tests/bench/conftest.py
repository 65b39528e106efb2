"""A tiny workload, and actors on a tiny model; what a command sets is set back."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import torch

from areal_cppo.bench.quiet import quiet

# First: what AReaL's engine logs when it is imported is left out, too.
with quiet():
    from areal_cppo.bench.arms import Actors
    from areal_cppo.bench.train_step import model_folder
from areal_cppo.bench.workload import Workload


@pytest.fixture(autouse=True, scope="module")
def process():
    """Environment and torch's threads, which a command changes, as it may."""
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload(image=56, prompt=6, response=12, group=3, groups=2, max_tokens=128)


@pytest.fixture(scope="module")
def model():
    """A folder and its configuration."""
    with quiet(), model_folder("tiny", seed=1) as pair:
        yield pair


@pytest.fixture(scope="module")
def actors(model, workload):
    with quiet():
        made = Actors(model[0], workload)
        yield made
        made.close()
