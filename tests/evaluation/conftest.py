"""An evaluation of the triangle task against a fake server."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from areal.utils.image import image2base64

from areal_cppo.cli.common import config_file, quoted
from areal_cppo.config.experiment import load_config
from areal_cppo.evaluation.evaluate import Evaluation
from areal_cppo.tasks.problems import TRIANGLES
from tests.evaluation.scripted_server import FakeServer


class Known(NamedTuple):
    """A held-out problem as the fake server recognises it."""

    index: int
    answer: int
    greedy: bool


@pytest.fixture(scope="session")
def known():
    """From a request's payload to its problem."""
    problems = {}
    for index in range(32):
        problem = TRIANGLES.make_problem(0, index, "held_out")
        problems[image2base64(problem.image)[0]] = index, problem.answer

    def look(payload: dict) -> Known:
        greedy = payload["sampling_params"]["temperature"] == 0
        (image,) = payload["image_data"]
        return Known(*problems[image], greedy)

    return look


@pytest.fixture
def evaluate(tmp_path):
    """Runs an evaluation of the tiny model's folder; returns its result and folder."""

    def run(server: FakeServer, *overrides: str, k: int = 2, limit: int = 4, out="out"):
        model = [f"{key}={quoted(TRIANGLES.checkpoint)}" for key in MODEL_KEYS]
        config = load_config(config_file("triangles.yaml"), [*model, *overrides])
        notes: list[str] = []
        evaluation = Evaluation(
            config, k, limit, tmp_path / out, [server.address], notes.append
        )
        counted: list[int] = []
        evaluation.notes, evaluation.counted = notes, counted
        run.last = evaluation
        return evaluation.run(lambda: counted.append(1)), evaluation.folder

    return run


MODEL_KEYS = ("actor.path", "tokenizer_path")
