"""Real data: the validation set of the configuration, in a public schema.

A table like Geometry3K's of triangle pictures, asked of a fake server.
"""

from __future__ import annotations

import datasets
import pytest

from areal_cppo.errors import UserError
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.responses import EOS
from tests.evaluation.scripted_server import FakeServer

N_ROWS = 6


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Overrides that name a table of which one row has no answer."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    problems = [TRIANGLES.make_problem(0, index, "held_out") for index in range(N_ROWS)]
    rows = {
        "images": [[problem.image] for problem in problems],
        "problem": ["<image>P?"] * N_ROWS,
        "answer": [str(problem.answer) for problem in problems],
    }
    rows["answer"][2] = ""
    features = datasets.Features(
        images=datasets.List(datasets.Image()),
        problem=datasets.Value("string"),
        answer=datasets.Value("string"),
    )
    file = tmp_path / "test.parquet"
    datasets.Dataset.from_dict(rows, features).to_parquet(file)
    return (
        "data.source=geometry3k",
        "data.instruction=''",
        "heldout.size=0",
        f"train_dataset.path='{file}'",
        f"valid_dataset={{path: '{file}', split: test, type: rl}}",
    )


def answer(known):
    return lambda payload: f"<think>1</think>\\boxed{{{known(payload).answer}}}{EOS}"


def test_the_validation_set_is_measured(evaluate, known, settings):
    with FakeServer(answer(known)) as server:
        result, folder = evaluate(server, *settings, k=1, limit=None)
    assert result["problems"] == N_ROWS - 1 and result["bad_rows"] == {"no_answer": 1}
    assert result["greedy"]["accuracy"] == 1 and result["greedy"]["n"] == N_ROWS - 1
    assert {known(payload).index for payload in server.requests} == {0, 1, 3, 4, 5}
    names = {record["query_id"] for record in folder.records.values()}
    assert len(names) == N_ROWS - 1


def test_a_limit_takes_the_first(evaluate, known, settings):
    with FakeServer(answer(known)) as server:
        result, _ = evaluate(server, *settings, k=0, limit=2)
        assert result["problems"] == 2 and len(server.requests) == 2
        result, _ = evaluate(server, *settings, k=0, limit=99)
        assert result["problems"] == N_ROWS - 1 and len(server.requests) == N_ROWS - 1


def test_a_configuration_without_a_validation_set_is_refused(evaluate, settings):
    with FakeServer(lambda payload: "") as server:
        with pytest.raises(UserError, match="valid_dataset: expected the data"):
            evaluate(server, *settings[:-1])
