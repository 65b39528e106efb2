"""Warm-up: it learns, it can be repeated, and its folder loads. Not run to its end."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from areal_cppo.cli.main import main
from areal_cppo.tasks import warmup
from areal_cppo.tasks.model import load_model
from areal_cppo.tasks.pixels import make_uninformative
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.reading_lesson import ReadingLesson

N_STEPS = 12
LESSON = ReadingLesson(TRIANGLES)


@pytest.fixture(scope="module")
def short_runs():
    return [warmup.warm_up(LESSON, 0, max_steps=N_STEPS) for _ in range(2)]


def test_loss_falls(short_runs):
    _, first = warmup.warm_up(LESSON, 0, max_steps=1)
    _, history = short_runs[0]
    assert first[0].loss > 3.3  # about log(29) nats: nothing is known yet
    assert history[-1].loss < 0.95 * first[0].loss  # the mean over all steps


def test_two_runs_give_the_same_weights(short_runs):
    (first, one), (second, two) = short_runs
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert one[-1].loss == two[-1].loss


def test_history_says_where_it_stands(short_runs):
    _, history = short_runs[0]
    last = history[-1]
    assert (last.step, last.accuracy_n) == (N_STEPS, 200)
    assert 0 <= last.accuracy <= 1 and last.seconds > 0


def test_settings_of_torch_are_left_as_they_were(short_runs):
    assert not torch.are_deterministic_algorithms_enabled()


def test_saved_folder_loads_to_the_same_model(short_runs, tmp_path):
    model, _ = short_runs[0]
    warmup.save_checkpoint(model, LESSON, tmp_path)
    loaded, tokenizer = load_model(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    pairs = zip(model.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 1


def test_a_missed_target_is_said_and_nothing_written(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="after 1 steps"):
        warmup.make_model(LESSON, tmp_path / "model", seed=0, max_steps=1)
    assert "held-out accuracy 0.0" in capsys.readouterr().out
    assert not (tmp_path / "model").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ReadingLesson, "target_accuracy", 0.0)
    monkeypatch.setattr(ReadingLesson, "first_check", 1)
    monkeypatch.setattr(warmup, "_FULL_CHECK", 8)
    assert main(["tiny-model", "--task", "charts", "-o", str(tmp_path / "model")]) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    assert load_model(tmp_path / "model").config.text_config.num_hidden_layers == 3


def test_uninformative_pictures():
    picture = np.asarray(TRIANGLES.make_problem(0, 0).image)
    before = picture.copy()
    made = [make_uninformative(picture, random.Random(seed)) for seed in range(40)]
    assert np.array_equal(picture, before)
    for changed in made:
        assert changed.shape == picture.shape and changed.dtype == np.uint8
        assert (changed != picture).mean() > 0.3
    again = make_uninformative(picture, random.Random(0))
    assert np.array_equal(made[0], again)
