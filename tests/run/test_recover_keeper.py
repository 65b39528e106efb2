"""The keeper: when a checkpoint is due, what it holds, and stopping."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from areal_cppo.config.experiment import CheckpointConfig
from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.rollout.ledger import PromptLedger, PromptLoader
from areal_cppo.run.observers import Keeper
from areal_cppo.run.stop import Stopped


class Part:
    """Something of AReaL's with a state."""

    def __init__(self):
        self.state = 0

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


class Trainer:
    """Trains on the next two problems, which changes a number."""

    def __init__(self):
        self.train_dataloader = PromptLoader(range(6), 2, PromptLedger(6, seed=1))
        self.saver, self.evaluator, self.stats_logger = Part(), Part(), Part()
        self.rollout = SimpleNamespace(places=[])
        self.weights, self.version = 0, 0

    def step(self):
        ledger = self.train_dataloader.ledger
        self.rollout.places = [ledger.take(), ledger.take()]
        self.weights += 1
        self.saver.state += 10
        random.random()

    def save_training_state(self, folder):
        (folder / "weights").write_text(str(self.weights))

    def load_training_state(self, folder, version):
        self.weights = int((folder / "weights").read_text())
        self.version = version


def keeper(tmp_path, trainer=None, last_step=9, asked=False, **config):
    names = {"experiment_name": "e", "trial_name": "t", "fileroot": str(tmp_path)}
    folder = RunFolder(tmp_path).create()
    made = Keeper(
        trainer or Trainer(),
        CheckpointConfig(**names, **({"mode": "on"} | config)),
        folder,
        SimpleNamespace(asked=asked),
        last_step,
        folder.event,
    )
    return made


def train(keeper, steps):
    for step in range(keeper.step + 1, keeper.step + 1 + steps):
        keeper.trainer.step()
        keeper.step_done(step, {})


def kept(keeper):
    return [e["step"] for e in read_lines(keeper.folder.events)]


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),  # nothing said: after each
        ({"freq_steps": 3}, [3, 6, 7]),
        ({"freq_epochs": 1}, [3, 6, 7]),  # of three steps
        ({"freq_epochs": 2}, [6, 7]),
        ({"freq_secs": 50}, [2, 4, 6, 7]),  # a step takes 30 s
        ({"freq_secs": 3600}, [7]),  # after the last there always is one
        ({"mode": "disabled"}, []),
    ],
)
def test_when_a_checkpoint_is_due(monkeypatch, tmp_path, config, steps):
    trainer = Trainer()
    clock = SimpleNamespace(monotonic=lambda: 30.0 * trainer.weights)
    monkeypatch.setattr("areal_cppo.run.observers.time", clock)
    made = keeper(tmp_path, trainer, last_step=7, **config)
    train(made, 7)
    assert kept(made) == steps
    assert made.store.steps() == steps[-2:]


def test_going_on_is_as_if_nothing_had_been(tmp_path):
    """Weights, parts, random numbers, problems and version, from the newest."""
    whole = keeper(tmp_path / "whole")
    random.seed(5)
    train(whole, 6)
    expected = random.random(), whole.trainer.weights, whole.trainer.saver.state

    cut = keeper(tmp_path / "cut", freq_steps=2)
    random.seed(5)
    train(cut, 5)  # the fifth step is lost
    random.seed(99)
    again = keeper(tmp_path / "cut")
    again.go_on(*again.store.newest())
    assert (again.step, again.trainer.version) == (4, 4)
    assert again.trainer.recover_info.last_step_info.next().global_step == 4
    again.folder.cut(4)
    train(again, 2)
    found = random.random(), again.trainer.weights, again.trainer.saver.state
    assert found == expected
    assert again.folder.ledger.read_text() == whole.folder.ledger.read_text()


@pytest.mark.parametrize("mode", ["on", "disabled"])
def test_asked_to_stop_it_keeps_the_step_and_stops(tmp_path, mode):
    made = keeper(tmp_path, asked=True, freq_steps=100, mode=mode)
    made.trainer.step()
    with pytest.raises(Stopped, match="stopped after step 1") as stopped:
        made.step_done(1, {})
    assert stopped.value.exit_status == 75
    assert made.store.steps() == ([1] if mode == "on" else [])
    assert ("step 1 is kept" in str(stopped.value)) == (mode == "on")
    made.save()  # of a step that is kept already
    assert kept(made) == ([1] if mode == "on" else [])


@pytest.mark.parametrize(
    "wrong", [{"keep": 0}, {"keep": 1.5}, {"grace_seconds": -1}, {"mode": "always"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        CheckpointConfig(experiment_name="e", trial_name="t", fileroot="f", **wrong)
