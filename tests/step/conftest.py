"""Fixtures of the actor tests: a tiny model folder and one actor for this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import CPLConfig
from tests.step import harness


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return harness.make_model_folder(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def session_actor(model_folder):
    return harness.make_actor(harness.actor_config(model_folder))


@pytest.fixture
def actor(session_actor):
    """The session's actor with default settings, whatever the last test left."""
    config = session_actor.config
    config.objective = "cppo"
    config.mb_spec = MicroBatchSpec(n_mbs=1)
    config.reward_norm = session_actor.actor.reward_norm = None
    config.cpl = CPLConfig(coef=1.0)
    session_actor.set_version(0)
    session_actor.export_stats()
    return session_actor


@pytest.fixture
def configure(actor):
    """Change `actor.cpl` of the fixture `actor`."""

    def change(**settings) -> None:
        actor.config.cpl = CPLConfig(**({"coef": 1.0} | settings))

    return change
