"""What the shipped configurations say, resolved, and how they differ.

Each is loaded by AReaL's own loader. The command lines are in test_server_commands.py,
dry runs in test_dry_runs.py.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
import yaml

from areal_cppo.config.models import read_model_config
from areal_cppo.config.resources import gpus, shares_one_gpu, violations
from tests.config.shipped import CONFIGS, NAMES, RECIPES, flat

BASELINES = [
    name
    for name in RECIPES
    if name.endswith("_grpo.yaml") and not name.endswith("_dr_grpo.yaml")
]
NAMED = {"trial_name", "run_dir"}  # what may carry the trial's name


def test_the_recipes_of_the_issue_are_there():
    for size in ("3b", "7b"):
        for source in ("geometry3k", "virl39k"):
            assert f"qwen2_5_vl-{size}_{source}.yaml" in RECIPES
            assert f"qwen2_5_vl-{size}_{source}_grpo.yaml" in BASELINES


@pytest.mark.parametrize("name", RECIPES)
def test_models_and_data_are_the_public_ones(name, as_shipped):
    config = as_shipped(name)
    size, source = name.removeprefix("qwen2_5_vl-")[:2].upper(), config.data.source
    assert source in name
    assert config.actor.path == f"Qwen/Qwen2.5-VL-{size}-Instruct"
    public = {"geometry3k": "hiyouga/geometry3k", "virl39k": "TIGER-Lab/ViRL39K"}
    assert config.train_dataset.path == public[source]
    assert config.train_dataset.type == "rl"
    assert config.sglang.model_path == config.tokenizer_path == config.actor.path


@pytest.mark.parametrize("name", RECIPES)
def test_trainer_and_server_are_the_same_policy(name, as_shipped):
    config = as_shipped(name)
    assert config.sglang.dtype == config.actor.dtype == "bfloat16"
    assert config.actor.temperature == config.gconfig.temperature
    assert config.actor.attn_impl == "torch_flash"
    assert config.actor.gradient_checkpointing
    assert config.actor.correct_reward == 0.5  # 0.9 for the answer, 0.1 for the format


@pytest.mark.parametrize("name", NAMES)
def test_resources_add_up(name, load):
    config = load(name)
    assert config.actor.cpl.coef > 0
    assert violations(config, read_model_config(config.actor.path)) == []
    total = config.cluster.n_nodes * config.cluster.n_gpus_per_node
    taken = sum(gpus(config).values())
    if "lora" in name:
        assert total == 1 and shares_one_gpu(config)
        assert config.actor.weight_update_mode == "disk"
    elif name in RECIPES:
        assert taken == total == 8 and not shares_one_gpu(config)
        assert config.actor.weight_update_mode == "xccl"
    else:
        assert total == 0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_differs_in_objective_and_names_only(name, as_shipped):
    mine, twin = (
        flat(asdict(as_shipped(each))) for each in (name, name.replace("_grpo", ""))
    )
    assert mine.keys() == twin.keys()
    differ = {key for key in mine if mine[key] != twin[key]}
    assert (mine["actor.objective"], twin["actor.objective"]) == ("grpo", "cppo")
    names = {
        key
        for key in differ
        if key.split(".")[-1] in NAMED
        # paths below run_dir, which has the trial's name
        or str(mine[key]).replace(mine["run_dir"], twin["run_dir"]) == str(twin[key])
    }
    assert differ - names == {"actor.objective"}


DAPO = {
    "groups.all_equal": "drop",
    "groups.attempts": 1,
    "watchdog.failed_groups": 640,
    "actor.ppo_n_minibatches": 4,
    "actor.overlong_reward_penalty": True,
    "actor.overlong_tokens": 410,
    "actor.overlong_penalty_factor": 0.5,
}
DR_GRPO = {
    "actor.loss_divisor": "max_tokens",
    "actor.eps_clip_higher": None,
    "actor.reward_norm.std_level": None,
}


@pytest.mark.parametrize(("method", "own"), [("dapo", DAPO), ("dr_grpo", DR_GRPO)])
def test_what_a_method_changes_of_grpo(as_shipped, method, own):
    """And what it has in common with it: no KL, the other clip."""
    mine, twin = (
        flat(asdict(as_shipped(f"qwen2_5_vl-3b_geometry3k_{name}.yaml")))
        for name in (method, "grpo")
    )
    names = {
        key
        for key in mine
        if key.split(".")[-1] in NAMED or mine["run_dir"] in str(mine[key])
    }
    differ = {key for key in mine if mine[key] != twin.get(key)} - names
    assert {key: mine[key] for key in differ} == own
    assert (mine["actor.eps_clip"], mine["actor.kl_ctl"]) == (0.2, 0.0)
    higher = {"dapo": 0.28, "dr_grpo": None}
    assert mine["actor.eps_clip_higher"] == higher[method]
    assert mine["actor.reward_norm.mean_level"] == "group"


def test_no_two_runs_share_a_folder(as_shipped):
    configs = [as_shipped(name) for name in NAMES]
    assert len({config.run_dir for config in configs}) == len(configs)
    for config in configs:
        assert config.cluster.fileroot == config.run_dir + "/areal"


def test_the_synchronous_regime_differs_in_that_only(as_shipped):
    twin, mine = (
        flat(asdict(as_shipped(f"qwen2_5_vl-3b_geometry3k{end}.yaml")))
        for end in ("", "_sync")
    )
    differ = {key for key in mine if mine[key] != twin[key]}
    unnamed = {
        key
        for key in differ
        if not key.endswith("trial_name") and twin["run_dir"] not in str(twin[key])
    }
    assert unnamed == {"rollout.max_head_offpolicyness"}
    assert mine["rollout.max_head_offpolicyness"] == 0
    assert twin["rollout.max_head_offpolicyness"] > 0


def test_the_published_verl_setting(as_shipped):
    config = as_shipped("qwen2_5_vl-3b_virl39k_published.yaml")
    batch, actor = config.train_dataset.batch_size, config.actor
    assert (batch, batch // actor.ppo_n_minibatches) == (512, 64)
    assert (config.gconfig.n_samples, config.gconfig.max_new_tokens) == (5, 4096)
    assert (actor.optimizer.lr, config.total_train_epochs) == (1e-6, 2)
    assert (actor.kl_ctl, actor.kl_estimator) == (0.01, "k3")
    assert config.cluster.n_nodes * config.cluster.n_gpus_per_node == 8
    assert config.rollout.max_head_offpolicyness == 0  # verl is synchronous
    cpl = actor.cpl
    assert (cpl.coef, cpl.tau, cpl.top_fraction, cpl.gate) == (
        *(0.01, 0.1, 0.5),
        "positive_advantage",
    )
    assert (cpl.divergence, cpl.quota) == ("k3", "floor")
    assert config.ref is not None and not config.ref.uses_cpl
    assert config.ref.path == actor.path and config.ref.optimizer is None


def test_the_published_areal_setting(as_shipped):
    config = as_shipped("qwen2_5_vl-3b_geometry3k_published.yaml")
    actor = config.actor
    assert (config.train_dataset.batch_size, config.gconfig.n_samples) == (32, 4)
    assert (actor.optimizer.lr, actor.eps_clip) == (2e-6, 0.4)
    assert actor.eps_clip_higher is None
    assert (actor.reward_scaling, actor.reward_bias, actor.kl_ctl) == (10.0, -0.5, 0.0)
    assert (actor.reward_norm.mean_level, actor.reward_norm.std_level) == (
        *("group", "group"),
    )
    assert config.rollout.max_head_offpolicyness == 4
    assert actor.rejection_sampling.upper == 5.0
    assert (actor.cpl.divergence, actor.cpl.quota) == ("k1", "ceil")


@pytest.mark.parametrize("path", sorted((CONFIGS / "parts").glob("*.yaml")))
def test_parts_are_used(path):
    """Each by a configuration, and each sets keys of the whole, not of a group."""
    assert path.read_text().startswith("# @package _global_\n")
    users = [
        name
        for name in NAMES
        if f"parts/{path.stem}"
        in yaml.safe_load((CONFIGS / name).read_text()).get("defaults", [])
    ]
    assert users
