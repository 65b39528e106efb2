"""Every shipped YAML loads; what is wrong in one is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal_cppo.errors import UserError
from areal_cppo.training.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str, name: str = "triangles.yaml"):
        return load_config(CONFIGS / name, [f"run_dir='{tmp_path}'", *overrides])

    return load


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_shipped_files_load(load, name):
    config = load(name=name)
    assert config.actor.cpl.coef > 0


def test_overrides_reach_keys_that_the_file_lacks(load):
    config = load(
        "actor.cpl.tau=0.2",
        "actor.cpl.staleness.max_staleness=3",
        "actor.cpl.views.negative=[{name: blank}]",
    )
    assert config.actor.cpl.tau == 0.2
    assert config.actor.cpl.staleness.max_staleness == 3
    assert config.actor.cpl.views.negative == [{"name": "blank"}]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.cpl.taau=1", ["actor.cpl.taau", "tau"]),
        ("actor.cpl.tau=-1", ["cpl.tau", "> 0", "-1"]),
        ("actor.cpl.tau=warm", ["actor.cpl.tau", "warm"]),
        ("actor.cpl.top_fraction=2", ["top_fraction", "2"]),
        ("actor.cpl.views.negative=[{name: fog}]", ["fog", "zoom_crop"]),
        ("actor.objective=ppo", ["actor.objective", "cppo, grpo, cpl", "'ppo'"]),
        ("actor.attn_impl=eager", ["actor.attn_impl", "sdpa"]),
        ("actor.backend=fsdp:d1t2", ["actor.backend", "t1"]),
        ("actor.backend=megatron:d1", ["actor.backend", "fsdp"]),
        ("heldout.size=-1", ["heldout.size", ">= 0"]),
        ("nonsense=1", ["nonsense"]),
        ("cluster.fileroot='a b'", ["cluster.fileroot", "spaces"]),
        ("total_train_epochs=0", ["total_train_epochs"]),
    ],
)
def test_mistakes_are_told_in_one_line(load, override, words):
    with pytest.raises(UserError) as caught:
        load(override)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_cpl_alone_needs_a_coefficient(load):
    with pytest.raises(UserError, match="nothing to train on"):
        load("actor.objective=cpl", "actor.cpl.coef=0")


def test_other_models_are_refused_by_name(load):
    with pytest.raises(UserError, match="qwen2_5_vl, qwen3_vl, found 'llava'"):
        load().actor.check_model_type("llava")
    load("actor.objective=grpo").actor.check_model_type("llava")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="expected a YAML file, found none"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("actor: [1, 2\n")
    with pytest.raises(UserError, match="broken.yaml"):
        load_config(broken)
