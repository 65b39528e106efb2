"""Servers of a worker that fail on request; the workflow with a real processor."""

from __future__ import annotations

import pytest
from areal.api.cli_args import GenerationHyperparameters
from areal.utils import stats_tracker
from transformers import AutoProcessor

from areal_cppo.rollout.workflow import CPPOWorkflow
from areal_cppo.tasks.problems import TRIANGLES, ReadingDataset
from tests.rollout.owned_server import Server


@pytest.fixture
def make(tmp_path):
    servers = []

    def start(**settings) -> Server:
        server = Server(tmp_path / f"server{len(servers)}", **settings)
        servers.append(server)
        server.start()
        server.until("up")
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def problem(processor):
    return ReadingDataset(TRIANGLES, processor, 1, seed=0)[0]


@pytest.fixture
def make_workflow(processor):
    stats_tracker.get("rollout").export()

    def make(processor=processor, **kwargs):
        settings = {
            "reward_fn": "tests.rollout.reward_cases.by_token",
            "gconfig": GenerationHyperparameters(max_new_tokens=8, max_tokens=100),
            "tokenizer": str(TRIANGLES.checkpoint),
            "reward": {"timeout_seconds": 20.0},
        }
        return CPPOWorkflow(processor=processor, **settings | kwargs)

    return make
