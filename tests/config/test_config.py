"""What is wrong in a YAML is said in one line, before anything starts.

That every shipped one loads is in test_shipped_configs.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from areal.engine.core.model import VALID_VISION_MODELS

from areal_cppo.config import KERNELS, SDPA, TASK_NAMES
from areal_cppo.config.experiment import load_config
from areal_cppo.config.models import check_supported, read_model_config
from areal_cppo.errors import UserError
from areal_cppo.run import controller
from areal_cppo.step import attention
from areal_cppo.step.actor import CPPOActor
from areal_cppo.tasks import problems
from tests.config.shipped import CONFIGS
from tests.step import harness


@pytest.fixture
def load(load):
    """The demo's configuration with overrides."""
    return partial(load, "triangles.yaml")


def test_names_are_those_that_there_are():
    assert tuple(problems._TASKS) == TASK_NAMES
    assert {SDPA, *attention.FLASH} == set(KERNELS)


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
        ("actor.cpl.tau=-1", ["actor.cpl.tau", "[1e-06, 1e+06]", "-1"]),
        ("actor.cpl.tau=warm", ["actor.cpl.tau", "warm"]),
        ("actor.cpl.top_fraction=2", ["top_fraction", "2"]),
        ("actor.cpl.views.negative=[{name: fog}]", ["fog", "zoom_crop"]),
        ("actor.objective=ppo", ["actor.objective", "cppo, grpo, cpl, papo", "'ppo'"]),
        ("actor.papo.gama=1", ["actor.papo.gama", "gamma"]),
        ("actor.papo.gamma=-1", ["actor.papo.gamma", "[0, 1000]", "-1"]),
        ("actor.papo.eta2=0.03", ["papo.eta2", "papo.negative_grad"]),
        ("actor.papo.staleness.decay=2", ["papo.staleness.decay", "2"]),
        ("actor.vppo.k=0.4", ["actor.vppo.k", "top_fraction"]),
        ("actor.vppo.top_fraction=0", ["vppo.top_fraction", "(0, 1]"]),
        ("actor.pgpo.beta=-1", ["pgpo.beta", "[0, 1000]"]),
        ("actor.dvrp.grad=[anchor]", ["dvrp.lambda_ent", "expected 0 with"]),
        ("actor.vppo.beta_max=0.5", ["vppo.beta_max", "vppo.beta_min (0.9)"]),
        ("actor.attn_impl=eager", ["actor.attn_impl", "sdpa"]),
        ("actor.backend=fsdp:d1t2", ["actor.backend", "tensor parallelism", "t1"]),
        ("actor.backend=fsdp:d1c2", ["actor.backend", "Ulysses", "c1"]),
        ("actor.backend=fsdp:d1p2", ["expected fsdp:d<number of ranks>", "pp=2"]),
        ("actor.backend=megatron:d1", ["expected fsdp:d<number", "'megatron:d1'"]),
        ("actor.backend=archon:d1", ["expected fsdp:d<number", "'archon:d1'"]),
        ("actor.backend=fsdp:d1s2", ["expected fsdp:d<number", "'fsdp:d1s2'"]),
        ("actor.backend=d1", ["expected fsdp:d<number", "'d1'"]),
        ("heldout.size=-1", ["heldout.size", "[0, "]),
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


def test_objectives_to_compare_with(load):
    """Views are computed where they have an effect, and layouts checked as for CPPO."""
    for objective in ("papo", "vppo", "dvrp", "pgpo"):
        config = load(f"actor.objective={objective}")
        assert config.actor.uses_views and not config.actor.uses_cpl
        with pytest.raises(UserError, match="tensor parallelism"):
            load(f"actor.objective={objective}", "actor.backend=fsdp:d1t2")
    nothing = ["actor.papo.gamma=0", "actor.papo.eta1=0"]
    assert not load("actor.objective=papo", *nothing).actor.uses_views


@pytest.mark.parametrize("objective", ["vppo", "pgpo"])
def test_some_treat_tokens_not_sequences(load, objective):
    level = "actor.importance_sampling_level=sequence"
    words = f"expected token with actor.objective={objective}, found 'sequence', in "
    with pytest.raises(UserError, match=words):
        load(f"actor.objective={objective}", level)
    load("actor.objective=papo", level)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("fsdp:d1c2", "Ulysses"),  # the packing mask is that of whole rows
        ("fsdp:d1p2", "pp=2"),
        ("megatron:d1", "FSDP engine only"),
        ("archon:d1", "FSDP engine only"),
    ],
)
def test_layouts_that_grpo_alone_cannot_have_either(load, backend, words):
    with pytest.raises(UserError, match=words):
        load("actor.objective=grpo", f"actor.backend={backend}")


def test_layouts_that_grpo_alone_may_have(load):
    load("actor.objective=grpo", "actor.backend=fsdp:d1t2")
    ulysses = ("actor.objective=grpo", "actor.backend=fsdp:d1c2")
    dtype = "actor.dtype=bfloat16"
    load(*ulysses, dtype, "actor.attn_impl=flash_attention_2")
    with pytest.raises(UserError, match=r"Ulysses.*attn_impl=torch_flash lacks"):
        load(*ulysses, dtype, "actor.attn_impl=torch_flash")


@pytest.mark.parametrize("kernel", ["torch_flash", "flash_attention_2"])
def test_flash_attention_in_float32_is_refused(load, kernel):
    with pytest.raises(UserError, match=f"expected bfloat16 with .*={kernel}, found f"):
        load(f"actor.attn_impl={kernel}")  # the demo computes in float32
    load(f"actor.attn_impl={kernel}", "actor.dtype=bfloat16")
    with pytest.raises(UserError, match="expected one of sdpa, torch_flash, flash_att"):
        load("actor.attn_impl=eager")


@pytest.mark.parametrize("backend", ["vllm:d1", "sglang"])
def test_servers_are_those_of_sglang(load, backend):
    words = f"rollout.backend: expected sglang:d<number of servers>, found '{backend}'"
    with pytest.raises(UserError, match=words):
        load(f"rollout.backend={backend}")


UNTESTED = sorted(set(VALID_VISION_MODELS) - {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})


@pytest.mark.parametrize("uses_views", [True, False])
def test_other_vision_models_are_refused_by_name(uses_views):
    assert "gemma3" in UNTESTED and "qwen3_vl_moe" in UNTESTED
    unknown_to_areal = {"model_type": "llava", "vision_config": {}}
    for config in [unknown_to_areal, *({"model_type": name} for name in UNTESTED)]:
        with pytest.raises(UserError) as caught:
            check_supported(config, uses_views=uses_views)
        text = str(caught.value)
        assert "qwen2_vl, qwen2_5_vl, qwen3_vl, found" in text and "\n" not in text
        assert repr(config["model_type"]) in text


def test_text_models_are_refused_with_cpl_only():
    check_supported({"model_type": "qwen3"}, uses_views=False)
    with pytest.raises(UserError, match="found 'qwen3', without images.*grpo"):
        check_supported({"model_type": "qwen3"}, uses_views=True)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_supported_models(name):
    for uses_views in (True, False):
        config = {"model_type": name, "vision_config": {}}
        check_supported(config, uses_views=uses_views)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backend": "fsdp:d1t2"}, "actor.backend: expected fsdp:d.*'fsdp:d1t2'.*t1"),
        ({"backend": "fsdp:d2c2"}, "actor.backend: expected fsdp:d.*'fsdp:d2c2'.*c1"),
        ({"tree_training": True}, "actor.enable_tree_training: expected false"),
    ],
)
def test_what_a_vision_model_cannot_have_even_with_grpo(change, words):
    for uses_views in (True, False):
        with pytest.raises(UserError, match=words):
            check_supported({"model_type": "qwen3_vl"}, uses_views=uses_views, **change)
    check_supported({"model_type": "qwen3"}, uses_views=False, **change)


def test_responses_are_packed_by_prompt_not_by_number(load):
    with pytest.raises(UserError, match="granularity: expected 1, found 2"):
        load("actor.mb_spec.granularity=2")


@pytest.mark.parametrize("name", ["share_prompts", "reuse_proximal"])
def test_what_makes_a_step_cheap_can_be_switched_off(load, name):
    config = load(f"actor.speed.{name}=false")
    assert getattr(config.actor.speed, name) is False
    with pytest.raises(UserError, match=f"actor.speed.{name}: .* found 'maybe'"):
        load(f"actor.speed.{name}=maybe")
    with pytest.raises(UserError, match="expected a key of SpeedConfig"):
        load(f"actor.speed.{name}s=false")


def folder_without_weights(folder: Path, model_type: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize(
    ("model_type", "objective"),
    [("gemma3", "grpo"), ("qwen3_vl_moe", "cppo"), ("qwen2", "cppo")],
)
def test_a_worker_refuses_before_it_loads_weights(tmp_path, model_type, objective):
    """There are none to load: a model by its hub name is only known there."""
    folder = folder_without_weights(tmp_path, model_type)
    with pytest.raises(UserError, match=f"found '{model_type}'"):
        CPPOActor(harness.actor_config(folder, objective=objective))


@pytest.mark.parametrize(
    ("model_type", "overrides", "words"),
    [
        ("gemma3", ["actor.objective=grpo"], "qwen3_vl, found 'gemma3'"),
        ("no such type", [], "actor.objective=grpo"),
        ("qwen3_vl", ["actor.backend=fsdp:d1c2"], "Ulysses"),
    ],
)
@pytest.mark.parametrize("start", [controller.dry_run, controller.run])
def test_a_run_is_refused_before_it_has_a_folder(
    tmp_path, monkeypatch, start, model_type, overrides, words
):
    folder = folder_without_weights(tmp_path, model_type)
    monkeypatch.chdir(tmp_path)
    own = [f"actor.path='{folder}'", f"run_dir='{tmp_path}/run'"]
    more = [dict(os.environ)] if start is controller.run else []
    said = []
    with pytest.raises(UserError) as caught:
        start(str(CONFIGS / "triangles.yaml"), [*own, *overrides], said.append, *more)
    status, text = controller.describe(caught.value)
    assert status == 2 and words in text and "\n" not in text
    assert not said and not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_refused_at_the_command_line(tmp_path):
    """In a line of its own, by the process that reads the configuration."""
    folder = folder_without_weights(tmp_path, "gemma3")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "areal_cppo", "train", "actor.objective=grpo"),
            *("--config", str(CONFIGS / "triangles.yaml")),
            *(f"actor.path='{folder}'", f"run_dir='{tmp_path}/run'"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "qwen3_vl, found 'gemma3'" in done.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_model_config_that_cannot_be_read(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="readable config.json"):
        read_model_config(str(tmp_path))
    with pytest.raises(UserError, match="no/such-model") as caught:
        read_model_config("no/such-model")
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="expected a YAML file, found none"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("actor: [1, 2\n")
    with pytest.raises(UserError, match="broken.yaml"):
        load_config(broken)
