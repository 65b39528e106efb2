"""Real data as an experiment: what the controller asks for, and what it is told."""

from __future__ import annotations

import pickle
from dataclasses import asdict

import pytest
from torch.utils.data import DataLoader

from areal_cppo.config.blocks import GroupsConfig
from areal_cppo.config.experiment import load_config
from areal_cppo.data.task import ProblemTask
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.inspection.run_samples import write_heldout_samples
from areal_cppo.rollout.workflow import CPPOWorkflow
from areal_cppo.run.controller import dry_run
from areal_cppo.tasks.experiment import ReadingExperiment, load_task
from areal_cppo.tasks.responses import QUESTION
from tests.data.problem_files import build_processor, geometry3k, jsonl, virl39k

CONFIG = "configs/triangles.yaml"  # AReaL's side of an experiment
CHECKPOINT = "areal_cppo/tasks/triangles/checkpoint"


@pytest.fixture
def overrides(tmp_path):
    """Settings of an experiment with Geometry3K's schema and `n` problems."""
    build_processor().save_pretrained(tmp_path / "model")
    geometry3k(tmp_path / "geo", n=10)
    geometry3k(tmp_path / "geo", n=4, split="test")

    def overrides(**more):
        settings = {
            "actor.path": CHECKPOINT,
            "tokenizer_path": tmp_path / "model",
            "train_dataset.path": tmp_path / "geo",
            "data.source": "geometry3k",
            "heldout.size": 0,
            "run_dir": tmp_path / "run",
            **more,
        }
        return [f"{key}={value}" for key, value in settings.items()]

    return overrides


@pytest.fixture
def task(overrides):
    def task(**more):
        notes: list[str] = []
        made = load_task(load_config(CONFIG, overrides(**more)), notes.append)
        made.notes = notes
        return made

    return task


def test_training_problems_follow_the_runs_seed(task):
    orders = [
        [item["query_id"] for item in task(**{"seed": seed}).train_dataset()]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == [f"train-{i}" for i in range(10)]


def test_validation_problems_are_the_same_in_every_run(task, tmp_path):
    assert task().valid_dataset() is None
    block = {
        "valid_dataset.path": tmp_path / "geo",
        "valid_dataset.type": "rl",
        "data.limit": 3,
    }
    chosen = [
        [item["query_id"] for item in task(**block, seed=seed).valid_dataset()]
        for seed in (1, 2)
    ]
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and len(chosen[0]) == 3
    assert all(name.startswith("test-") for name in chosen[0])


def test_what_the_workflow_gets(task, tmp_path):
    kwargs = task(**{"reward.answer_weight": 0.8}).workflow_kwargs
    assert kwargs["reward_fn"] == "areal_cppo.rewards.reward.reward_fn"
    assert kwargs["reward"]["answer_weight"] == 0.8
    assert kwargs["tokenizer"] == kwargs["processor"] == str(tmp_path / "model")
    assert kwargs["gconfig"].n_samples == 8
    assert kwargs["groups"] == asdict(GroupsConfig())
    assert (kwargs["max_prompt_tokens"], kwargs["context_length"]) == (2048, 256)
    CPPOWorkflow(**kwargs)
    pickle.dumps(kwargs)  # it travels to the rollout workers


def test_no_model_is_loaded_into_the_controller(task, tmp_path):
    made = task()
    assert made.evaluate(tmp_path / "nothing") is None
    write_heldout_samples(RunFolder(tmp_path / "nothing"), made, {})
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_dataset.batch_size": 11}, "at most the 10 usable problems, found 11"),
        ({"train_dataset.max_length": 512}, "train_dataset.max_length: expected none"),
        (
            {"train_dataset.dataset_kwargs": "{img_folder_path: here}"},
            "train_dataset.dataset_kwargs: expected none",
        ),
        ({"train_dataset.path": "nobody/nothing"}, "nobody/nothing"),
        ({"data.source": "virl39k"}, "found no question, image, qid among"),
    ],
)
def test_mistakes(task, monkeypatch, settings, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = task(**settings)
    with pytest.raises(UserError, match=words) as refused:
        made.train_dataset()
    assert len(str(refused.value).splitlines()) == 1


def test_which_task():
    def load(path, source):
        names = [f"train_dataset.path={path}", f"data.source={source}"]
        return load_task(load_config(CONFIG, [*names, "heldout.size=0"]))

    for name in ("triangles", "charts"):
        made = load(name, name)
        assert isinstance(made, ReadingExperiment) and made.task.name == name
    assert isinstance(load("hiyouga/geometry3k", "geometry3k"), ProblemTask)
    for path, source in (
        ("hiyouga/geometry3k", "triangles"),  # the default, left as it is
        ("triangles", "geometry3k"),
        ("charts", "triangles"),
    ):
        with pytest.raises(UserError, match=f"found '{path}' and '{source}'"):
            load(path, source)


def test_a_model_without_images(task, tmp_path):
    build_processor().tokenizer.save_pretrained(tmp_path / "text")
    made = task(tokenizer_path=tmp_path / "text")
    with pytest.raises(UserError, match="expected a vision-language model, found"):
        made.train_dataset()


def test_a_dry_run_tells_what_is_left_out(overrides, tmp_path):
    """And what is measured on, though it is trained on."""
    row = {"question": f"<image>{QUESTION}", "answer": "1"}
    rows = [
        {**row, "qid": f"made-up-{i}", "image": [f"images/Part{i % 2}/{i}.jpg"]}
        for i in range(12)
    ]
    virl39k(tmp_path / "virl", rows, n=12)
    (tmp_path / "virl" / "images" / "Part0" / "2.jpg").unlink()
    used = RunFolder(tmp_path / "run").create()
    used.metrics.write_text("{}\n")
    said: list[str] = []
    dry_run(
        CONFIG,
        overrides(
            **{
                "tokenizer_path": CHECKPOINT,
                "train_dataset.path": tmp_path / "virl",
                "valid_dataset.path": tmp_path / "virl",
                "valid_dataset.type": "rl",
                "valid_dataset.split": "'train[90%:]'",
                "data.source": "virl39k",
                "data.instruction": "",  # the demo's model holds 256 tokens
                "data.max_prompt_tokens": 200,
            }
        ),
        lambda kind, **fields: said.append(fields["text"]),
    )
    (found,) = [text for text in said if text.startswith("train_dataset: ")]
    assert "11 of 12 rows of" in found
    assert "left out: missing_image 1 (made-up-2: no file " in found
    warning, place = [text for text in said if text.startswith("warning: ")]
    assert place.startswith("warning: run_dir: expected a new folder, found a run's me")
    assert "1 of 1 problems: row 0 (made-up-11); accuracy on them" in warning
    (data,) = [text for text in said if text.startswith("data: ")]
    assert "11 problems" in data


def test_validation_problems_that_are_trained_on_are_told_of(task, tmp_path):
    """At the dry run and at the start; and what can't be compared."""

    def warned(split, **more):
        block = {
            "valid_dataset.path": tmp_path / "geo",
            "valid_dataset.type": "rl",
            "valid_dataset.split": f"'{split}'",
            **more,
        }
        made = task(**block)
        assert len(made.train_dataset()) == 10
        return [note for note in made.notes if note.startswith("warning")]

    (line,) = warned("train[70%:]")
    assert "shares with train_dataset 3 of 3 problems: row 0 (train[70%:]-0), " in line
    assert "choose splits that share none" in line and len(line.splitlines()) == 1
    (line,) = warned("test")  # the first four again, under other names
    assert "4 of 4 problems: row 0 (test-0), row 1 (test-1), row 2 (test-2);" in line
    custom = {"data.source": "custom", "train_dataset.path": tmp_path / "geo"}
    rows = [{"problem": "Other?", "answer": "1", "images": None}]
    jsonl(tmp_path / "other.jsonl", rows)
    assert (
        warned("train", **{**custom, "valid_dataset.path": tmp_path / "other.jsonl"})
        == []
    )
    (line,) = warned("dev")
    assert "not compared with train_dataset: valid_dataset.split: expected one" in line


def test_worker_processes_of_a_dataloader_read_the_same(task):
    """`train_dataset.num_workers`."""
    dataset = task().train_dataset()
    items = [
        [
            (item["query_id"], item["messages"], item["images"][0].tobytes())
            for batch in DataLoader(
                dataset, batch_size=4, num_workers=workers, collate_fn=list
            )
            for item in batch
        ]
        for workers in (0, 2)
    ]
    assert items[0] == items[1] and len(items[0]) == 10
