"""A tiny workload, and actors on a tiny model; what a command sets is set back."""

from __future__ import annotations

import os
from contextlib import ExitStack
from unittest import mock

import pytest
import torch

from areal_cppo.bench.quiet import quiet
from areal_cppo.bench.workload import Workload


@pytest.fixture(autouse=True, scope="module")
def process():
    """Environment and torch's threads, which a command changes, as it may."""
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def workload() -> Workload:
    return Workload(image=56, prompt=6, response=12, group=3, groups=2, max_tokens=128)


@pytest.fixture(scope="session")
def model():
    """A folder and its configuration."""
    with ExitStack() as stack:
        with quiet():
            from areal_cppo.bench.models import model_folder

            pair = stack.enter_context(model_folder("tiny", seed=1))
        yield pair


@pytest.fixture(scope="module")
def actors(model, workload):
    with quiet():
        from areal_cppo.bench.actors import Actors

        made = Actors(model[0], workload)
    yield made
    with quiet():
        made.close()
