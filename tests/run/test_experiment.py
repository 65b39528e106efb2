"""What an experiment looks at before it starts anything."""

from __future__ import annotations

import json

import pytest

from areal_cppo.cli.common import config_file
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError
from areal_cppo.folder import FINISHED, STARTED, RunFolder
from areal_cppo.rollout.ledger import PromptLedger
from areal_cppo.run import experiment as module
from areal_cppo.run.experiment import Experiment

STEPS = 2


class Began(Exception):
    """The trainer would be made now."""


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Runs an experiment on a folder that `STEPS` steps were made in, until the
    trainer; returns what it said."""
    folder = RunFolder(tmp_path / "run").create()
    checkpoint = folder.recover / f"step-{STEPS:05d}"
    checkpoint.mkdir(parents=True)

    def no_trainer(*arguments, **named):
        raise Began

    def begin(*overrides: str, size: int | None = None) -> list[str]:
        settings = [f"run_dir={folder.path}", "recover.mode=on", "heldout.size=0"]
        settings += [f"total_train_steps={STEPS}", *overrides]
        config = load_config(config_file("triangles.yaml"), settings)
        said = []
        made = Experiment(config, lambda kind, **more: said.append(more.get("text")))
        batches = STEPS + config.rollout.max_head_offpolicyness + 2
        size = size or batches * config.train_dataset.batch_size
        state = {
            "step": STEPS,
            "files": {},
            "ledger": PromptLedger(size, 1).state_dict(),
        }
        (checkpoint / "state.json").write_text(json.dumps(state))
        made.run()
        return said

    monkeypatch.setattr(module, "CPPOTrainer", no_trainer)
    begin.folder = folder
    return begin


def test_a_run_that_has_ended_is_left_as_it_is(begin):
    begin.folder.event(STARTED)
    begin.folder.event(FINISHED, step=STEPS)
    before = begin.folder.events.read_text()
    assert f"all {STEPS} steps are done; for more raise total_" in begin()[-1]
    assert begin.folder.events.read_text() == before
    assert not begin.folder.config.exists()


def test_one_that_was_cut_off_after_its_last_step_goes_on(begin):
    begin.folder.event(STARTED)
    with pytest.raises(Began):
        begin()
    begin.folder.event(FINISHED, step=STEPS)
    begin.folder.event(STARTED)
    with pytest.raises(Began):
        begin()


def test_other_data_is_refused_before_anything_starts(begin):
    """And what is there stays as it is."""
    begin.folder.event(FINISHED, step=STEPS)
    before = begin.folder.events.read_text()
    with pytest.raises(UserError, match="expected the data order of the run to go on"):
        begin(size=7)
    assert begin.folder.events.read_text() == before
