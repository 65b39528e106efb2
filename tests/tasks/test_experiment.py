"""`configs/charts.yaml` as an experiment: whose problems, and how they are drawn."""

from pathlib import Path

import pytest
from transformers import AutoProcessor

from areal_cppo.config.agreements import check_agreements
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError
from areal_cppo.tasks.experiment import HELDOUT_SEED, load_task
from areal_cppo.tasks.problems import CHARTS

CONFIG = Path(__file__).parents[2] / "configs" / "charts.yaml"


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str):
        folder = f"actor.path='{CHARTS.checkpoint}'"
        return load_config(CONFIG, [folder, f"run_dir='{tmp_path}/run'", *overrides])

    return load


def test_the_configuration_names_the_task(load):
    task = load_task(load())
    assert task.task is CHARTS
    assert Path(load().actor.path) == CHARTS.checkpoint
    item = task.train_dataset()[0]
    problem = CHARTS.make_problem(load().seed, 0, "train")
    assert item["names"] == list(CHARTS.names) == ["A", "B", "C"]
    assert item["images"][0].tobytes() == problem.image.tobytes()


@pytest.mark.parametrize("shift", ["none", "rotation"])
def test_held_out_problems_are_drawn_as_asked_for(load, shift):
    task = load_task(load(f"heldout.shift={shift}"))
    processor = AutoProcessor.from_pretrained(CHARTS.checkpoint)
    items = task.heldout_dataset(processor, 3)
    for index, problem in enumerate(task.heldout(3)):
        expected = CHARTS.make_problem(HELDOUT_SEED, index, "held_out", shift)
        assert problem.image.tobytes() == expected.image.tobytes()
        assert items[index]["images"][0].tobytes() == expected.image.tobytes()
        assert items[index]["answer"] == expected.answer
    plain = CHARTS.make_problem(0, 0, "train")  # training is never shifted
    first = load_task(load("seed=0", f"heldout.shift={shift}")).train_dataset()[0]
    assert first["images"][0].tobytes() == plain.image.tobytes()


def test_shifts_that_there_are_not(load):
    with pytest.raises(UserError, match="heldout.shift: expected .*rotation.* found"):
        load("heldout.shift=weather")
    config = load(
        *("train_dataset.path=a/b", "data.source=geometry3k"),
        *("heldout.size=0", "heldout.shift=noise"),
    )
    with pytest.raises(UserError, match="only synthetic tasks have shifts"):
        check_agreements(config)
    config.heldout.size, config.heldout.shift = 100, "none"
    with pytest.raises(UserError, match="heldout.size: .*valid_dataset is what"):
        check_agreements(config)
