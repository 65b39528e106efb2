"""Validation in a run: when, what it says, what it keeps, and what cuts it short.

The trainer is made up and the server scripted; for real: tests/test_recipe.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from areal.utils.image import image2base64
from transformers import AutoProcessor

from areal_cppo.cli.common import config_file
from areal_cppo.config.experiment import load_config
from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.report.runs import load_run
from areal_cppo.run.finish import summarize
from areal_cppo.run.validation import Validation
from areal_cppo.tasks.problems import TRIANGLES, ReadingDataset
from areal_cppo.tasks.responses import EOS, REWARD_FN
from tests.evaluation.scripted_server import FakeServer

N = 4
PROCESSOR = AutoProcessor.from_pretrained(TRIANGLES.checkpoint)
PROBLEMS = [TRIANGLES.make_problem(0, index, "held_out") for index in range(N)]
INDEX = {image2base64(p.image)[0]: index for index, p in enumerate(PROBLEMS)}


class Policy:
    """Answers the first `able` problems right; of samples, only the first."""

    def __init__(self, able: int = 0):
        self.able = able
        self.interrupt = lambda: False
        self.refuses: set[int] = set()

    def __call__(self, request):
        index = INDEX[request["image_data"][0]]
        if index in self.refuses:
            return 400, "no"
        greedy = request["sampling_params"]["temperature"] == 0
        right = index < (self.able if greedy else 1)
        answer = PROBLEMS[index].answer if right else 0
        return f"<think>1+1=2</think>\\boxed{{{answer}}}{EOS}"


@pytest.fixture
def policy():
    return Policy()


@pytest.fixture
def validation(tmp_path, policy):
    """Makes validations of one run, each as after a restart."""
    folder = RunFolder(tmp_path / "run").create()
    with FakeServer(policy) as server:

        def make(*overrides: str, last_step: int = 7, saved: int = 99) -> Validation:
            config = load_config(
                config_file("triangles.yaml"),
                [f"validation.problems={N}", "validation.every=2", *overrides],
            )
            trainer = SimpleNamespace(
                server_addresses=lambda: [server.address.removeprefix("http://")],
                rollout=SimpleNamespace(token="a token"),
                processor=PROCESSOR,
                save_checkpoint=lambda path: path.mkdir(parents=True),
            )
            said: list[dict] = []
            made = Validation(
                config,
                ReadingDataset(TRIANGLES, PROCESSOR, N + 2, 0, "held_out"),
                REWARD_FN,
                folder,
                lambda kind, **fields: said.append({"kind": kind, **fields}),
                trainer,
                SimpleNamespace(last_step=last_step, saved=saved),
                lambda: policy.interrupt(),
            )
            made.said, made.server = said, server
            return made

        yield make


def best_checkpoint(folder: RunFolder) -> Path | None:
    """As the run's summary names it."""
    best = summarize(load_run(folder.path))["best"]
    return folder.path / best["checkpoint"] if best else None


def lines(validation) -> list[dict]:
    return list(read_lines(validation.folder.evaluations))


def test_it_is_due_at_the_start_every_so_many_steps_and_at_the_end(validation):
    due = validation().due
    assert [step for step in range(8) if due(step)] == [0, 2, 4, 6, 7]


def test_what_is_said_of_it(validation, policy):
    """Two of four problems right; of two samples a problem those of the first one."""
    policy.able = 2
    made = validation("validation.k=2")
    made.run(2)
    (line,) = lines(made)
    assert (line["step"], line["n"], line["correct"]) == (2, N, "1100")
    assert (line["accuracy"], line["average_at_k"], line["k"]) == (0.5, 0.25, 2)
    assert line["interval"][0] < 0.5 < line["interval"][1]
    assert line["reward"] == pytest.approx(0.9 * 0.5 + 0.1)
    assert (line["format"], line["cut_off"], line["refused"]) == (1, 0, {})
    assert made.stats["validation/accuracy"] == 0.5
    assert made.stats["validation/seconds"] > 0
    assert made.said == [
        {"kind": "evaluation", "step": 2, "accuracy": 0.5, "n": N, "of": "validation"}
    ]
    records = list(read_lines(made.folder.validation(2) / "responses.jsonl"))
    assert len(records) == N * 3
    made.run(2)  # not twice
    assert len(lines(made)) == 1 and len(made.server.requests) == N * 3
    for request in made.server.requests:
        assert request.headers["Authorization"].endswith("a token")
        assert request.headers["X-Weights-Version"] == "2"


def test_that_before_the_first_step_is_logged_by_itself(validation):
    made, logged = validation(), []
    made.trainer.stats_logger = SimpleNamespace(
        commit=lambda *args: logged.append(args)
    )
    made.begin(0)
    ((*_, step, stats),) = logged
    assert step == 0 and stats["validation/accuracy"] == 0 and made.stats == {}
    assert lines(made)[0]["step"] == 0 and "checkpoint" not in lines(made)[0]


def test_the_best_checkpoint_is_kept_and_named(validation, policy):
    made = validation()
    for step, able in ((0, 3), (2, 1), (4, 3), (6, 2)):
        policy.able = able
        made.run(step)
    checkpoints = made.folder.checkpoints
    assert best_checkpoint(made.folder) == checkpoints / "step-00004"
    made.forget()
    assert [path.name for path in checkpoints.iterdir()] == ["step-00004"]
    assert best_checkpoint(made.folder).is_dir()


def test_the_best_one_stays_while_the_run_can_fall_back_to_before_the_next(
    validation, policy
):
    """After step 4 there was no checkpoint to go on from yet: the run is killed."""
    made = validation("recover.mode=on", saved=3)
    for step, able in ((2, 1), (4, 3)):
        policy.able = able
        made.run(step)
        made.forget()
    assert len(list(made.folder.checkpoints.iterdir())) == 2
    made.folder.cut(3)
    assert best_checkpoint(made.folder) == made.folder.checkpoint(2)
    again = validation("recover.mode=on", saved=3)
    again.run(4)
    assert [line["step"] for line in lines(again)] == [2, 4]
    assert best_checkpoint(again.folder) == again.folder.checkpoint(4)


def test_none_is_kept_where_none_is_asked_for(validation, policy):
    policy.able = 3
    made = validation("validation.keep_best=false")
    made.run(2)
    assert best_checkpoint(made.folder) is None
    assert not list(made.folder.checkpoints.iterdir())


def test_one_that_is_cut_short_goes_on_with_what_is_missing(validation, policy):
    made = validation()
    policy.interrupt = lambda: len(made.server.requests) >= 1
    made.server._seconds = 1.0
    made.run(2)
    assert lines(made) == [] and "cut short" in made.said[-1]["text"]
    # As a killed process leaves it: one answer, and half a line.
    policy.interrupt = lambda: False
    made.server._seconds = 0.0
    folder = made.folder.validation(2)
    record = {"index": 0, "sample": "greedy", "refused": None, "correct": True}
    record |= {"format": True, "finish_reason": "stop", "tokens": 4, "reward": 1.0}
    (folder / "responses.jsonl").write_text(json.dumps(record) + '\n{"index": 1, "sa')
    before = len(made.server.requests)
    again = validation()
    again.run(2)
    assert len(made.server.requests) == before + N - 1
    assert lines(again)[0]["correct"] == "1000"


def test_what_a_killed_run_had_of_later_steps_is_taken_back(validation):
    made = validation()
    for step in (0, 2, 4):
        made.run(step)
    made.folder.cut(2)
    assert [line["step"] for line in lines(made)] == [0, 2]
    assert not made.folder.validation(4).exists()
    assert made.folder.validation(2).exists()


def test_refused_problems_are_told_apart(validation, policy, monkeypatch):
    monkeypatch.setattr("areal_cppo.run.validation._ATTEMPTS", 1)
    policy.able, policy.refuses = N, {1}
    made = validation()
    made.run(2)
    (line,) = lines(made)
    assert line["correct"] == "1-11" and line["refused"] == {"request_failed": 1}
    assert (line["accuracy"], line["n"]) == (1, N - 1)
    (told,) = [x["text"] for x in made.said if "leaves out" in x.get("text", "")]
    assert f"after step 2 leaves out 1 of {N} problems (request_failed 1)" in told


def test_what_goes_wrong_with_it_ends_no_run(validation):
    made = validation()
    made.trainer.server_addresses = lambda: 1 / 0
    made.run(2)
    assert lines(made) == []
    assert "failed: ZeroDivisionError" in made.said[-1]["text"]
