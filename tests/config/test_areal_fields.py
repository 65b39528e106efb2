"""Values that AReaL takes and a run can't use are refused, each under its full key.

By the rows of `areal_fields` or by what fields have to agree in; as `load_config` and a
dry run do it, but for the reading of the file. Not covered: whether a value that is let
through is a good one.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from areal_cppo.config.areal_fields import BLOCKS, FREE, NEWER, UNREAD
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.reading import row_name, row_of
from areal_cppo.patches.version import installed

VALUES = {  # key: values, each of which is refused
    "experiment_name": ["a b", "a;b", "'$HOME'", "a/b", "..", "''", "-x", "ü"],
    "trial_name": ["my run", "a&b", "a'b", "a*", "'a\nb'", "x" * 101],
    "rollout.experiment_name": ["a b"],
    "cluster.fileroot": ["a b", "a|b"],
    "cluster.name_resolve.type": ["nonsense", "redis"],
    "cluster.name_resolve.nfs_record_root": ["a b"],
    "cluster.n_nodes": [0, -1],
    "cluster.n_gpus_per_node": [-1],
    "scheduler.type": ["nonsense", "null"],
    "seed": [-1, 2**32],
    "total_train_epochs": [0, 10**9],
    "total_train_steps": [-1, 10**12],
    "train_dataset.batch_size": [0, -8, 10**9],
    "saver.freq_steps": [0, -1],
    "saver.freq_secs": [60],
    "evaluator.freq_secs": [60],
    "saver.mode": ["nonsense"],
    "recover.mode": ["resume"],
    "recover.retries": [-1],
    "stats_logger.wandb.mode": ["nonsense"],
    "stats_logger.swanlab.mode": ["nonsense"],
    "gconfig.n_samples": [0, -1, 10**9],
    "gconfig.max_new_tokens": [0, -1],
    "gconfig.temperature": [-1, 1000, ".nan"],
    "gconfig.top_p": [0, 1.5],
    "gconfig.top_k": [0, -2],
    "gconfig.frequency_penalty": [3],
    "gconfig.use_beam_search": ["true"],
    "eval_gconfig.top_p": [0.0],
    "rollout.backend": ["nonsense", "d1", "vllm:d1", "sglang:d0"],
    "rollout.max_head_offpolicyness": [-1, 10**9],
    "rollout.max_concurrent_rollouts": [0, -1],
    "rollout.consumer_batch_size": [0],
    "rollout.request_timeout": [0, -1, ".inf"],
    "rollout.setup_timeout": [-1],
    "rollout.agent.mode": ["online"],
    "rollout.routing_strategy": ["random"],
    "rollout._version": ["v2"],
    "actor._version": ["v2"],
    "actor.backend": ["nonsense", "fsdp:d0"],
    "actor.is_critic": ["true"],
    "actor.init_from_scratch": ["true"],
    "actor.log_agent_stats": ["true"],
    "actor.temperature": [-1, ".nan"],
    "actor.dtype": ["float16", "fp16", "nonsense"],
    "actor.optimizer_dtype": ["float16"],
    "actor.grad_reduce_dtype": ["nonsense"],
    "actor.mb_spec.n_mbs": [0],
    "actor.mb_spec.max_tokens_per_mb": [0],
    "actor.mb_spec.packing_algorithm": ["nonsense"],
    "actor.optimizer": ["null"],
    "actor.optimizer.type": ["nonsense", "adamw"],
    "actor.optimizer.lr": [-0.1, 100, ".nan"],
    "actor.optimizer.beta1": [1, -0.1],
    "actor.optimizer.beta2": [1.0],
    "actor.optimizer.eps": [0, -1],
    "actor.optimizer.weight_decay": [-1],
    "actor.optimizer.min_lr_ratio": [1.5],
    "actor.optimizer.lr_scheduler_type": ["cosin", "polynomial"],
    "actor.optimizer.warmup_steps_proportion": [-0.1, 2],
    "actor.optimizer.gradient_clipping": [0, -1],
    "actor.weight_update_mode": ["nonsense", "awex"],
    "actor.lora_rank": [0, -1],
    "actor.lora_alpha": [0],
    "actor.peft_type": ["nonsense"],
    "actor.ppo_n_minibatches": [0, -1],
    "actor.eps_clip": [-0.2],
    "actor.eps_clip_higher": [-0.2],
    "actor.c_clip": [-3, 1],
    "actor.m2_threshold": [-1],
    "actor.reward_clip": [-1, 0],
    "actor.reward_scaling": [0, -1],
    "actor.reward_bias": [".inf"],
    "actor.reward_norm.eps": [-1, 0],
    "actor.reward_norm.mean_level": ["nonsense"],
    "actor.reward_norm.group_size": [0],
    "actor.discount": [5, -1],
    "actor.gae_lambda": [-1, 2],
    "actor.kl_ctl": [-0.1, 0.1],
    "actor.kl_estimator": ["nonsense", "k4"],
    "actor.importance_sampling_level": ["nonsense"],
    "actor.prox_logp_method": ["nonsense"],
    "actor.rejection_sampling.upper": [0.5, ".nan"],
    "actor.rejection_sampling.lower": [0, 9],
    "actor.rejection_sampling.action": ["nonsense"],
    "actor.scheduling_spec.0.cpu": [0],
    "actor.scheduling_spec.0.port_count": [1],
    "rollout.scheduling_strategy.type": ["nonsense"],
    "sglang.context_length": [0, -1],
    "sglang.mem_fraction_static": [0, 1.5],
    "sglang.max_running_requests": [0],
    "sglang.dtype": ["bf16"],
    "sglang.attention_backend": ["nonsense"],
    "sglang.chunked_prefill_size": [0],
    "sglang.log_level": ["nonsense"],
    "actor.max_new_tokens": [0],
    "actor.view_seed": [-1],
    # Our own
    "actor.cpl.coef": [1e300, -1, ".nan"],
    "actor.cpl.tau": [1e-300, 1e300, 0],
    "heldout.size": [10**9],
    "reward.answer_weight": [1e300],
    "reward.timeout_seconds": [1e300, 0],
    "watchdog.step_seconds": [1e300],
    "rollout.servers.hang_seconds": [1e300],
    "actor.cpl.staleness.max_staleness": [10**30],
    "actor.cpl.staleness.importance_cap": [1e300],
    "actor.papo.gamma": [1e300],
    "actor.vppo.max_dependency": [1e300],
    "actor.dvrp.lambda_rob": [1e300, -1],
    "actor.pgpo.tau": [1.5],
    "actor.loss_divisor": ["length"],
    "groups.all_equal": ["replace"],
    "actor.vppo.beta_max": [0.1],
    "actor.cpl.views.negative": [
        "[{name: noise_patches, count: 1000000000}]",
        "[{name: black_squares, square: 1000000}]",
        "[{name: blank, probability: 0}]",
    ],
    "actor.cpl.views.positive": [
        "[{name: gaussian_blur, sigma: 1e-300}]",
        "[{name: color_jitter, contrast: [0, 1.0e+300]}]",
    ],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in VALUES for value in VALUES[key]]
)
def test_a_value_is_refused(told, key, value):
    line = told("triangles.yaml", f"{key}={value}")
    assert key in line, line
    assert "\n" not in line


def fields_of(owner: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """AReaL's fields below a dataclass, by the names of their rows, and their types."""
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        declared = next(c for c in owner.__mro__ if field.name in vars(c).get(
            "__annotations__", {}))  # fmt: skip
        key = f"{prefix}{field.name}"
        members = [hints[field.name], *typing.get_args(hints[field.name])]
        blocks = [m for m in members if dataclasses.is_dataclass(m)]
        if blocks:
            many = typing.get_origin(hints[field.name]) is tuple
            yield from fields_of(blocks[0], f"{key}.0." if many else f"{key}.")
        elif declared.__module__.startswith("areal."):
            plain = [m for m in members if m not in (types.NoneType, ...)]
            many = any(typing.get_origin(m) is list for m in plain)
            yield row_name(f"{key}.0" if many else key), plain[-1]


def test_every_field_of_areal_has_a_row_or_needs_none():
    """One of true or false has a row only if a run can't use one of the two."""
    found = dict(fields_of(CPPOConfig))
    assert len(found) > 250
    for key, kind in found.items():
        listed = sum(any(fnmatchcase(key, p) for p in ps) for ps in (FREE, UNREAD))
        rows = row_of(key) is not None
        told = rows or listed or kind is bool or key in NEWER
        assert told, f"{key}: no row, not FREE, not UNREAD, not NEWER"
    for pattern in (*FREE, *UNREAD):
        assert any(fnmatchcase(key, pattern) for key in found), pattern
    own = {"actor.view_seed", "actor.correct_reward", "actor.optimizer"}
    own |= {f"sglang.{name}" for name in ("device", "grammar_backend")}
    for block, rows in BLOCKS.items():
        for name in rows:
            key = f"{block}.{name}".lstrip(".")
            assert key in found or key in own, f"{key}: a row of no field"
    if installed().version == "1.0.4":
        assert not NEWER.keys() & found.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gconfig.seed", 1),
        ("gconfig.drop_incomplete_group", "true"),
        ("actor.gae_timestep_unit", "turn"),
        ("actor.enable_delta_weight_update", "true"),
        ("actor.prox_logp_method", "reuse_train_logp"),
        ("rollout.deterministic_sampling", "true"),
    ],
)
def test_what_only_2_0_has_is_refused(told, key, value):
    """By 1.0.4 as well, of which it is no key."""
    assert key in told("triangles.yaml", f"{key}={value}")
