"""What AReaL's fields may be: a row each, for AReaL takes almost anything.

A wrong value would fail only once models are loaded, or train on something else without
a word. Here are the values of one field; what several have to agree in is in
`agreements`. Types, true and false among them, and whether null is allowed, are said by
AReaL's dataclasses and checked before.

`tests/config/test_areal_fields.py` holds that each field has a row or is in one of the
lists below, so that a new AReaL brings none in unseen.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal_cppo.checks import (
    COUNT,
    FRACTION,
    POSITIVE,
    POSITIVE_FRACTION,
    Choice,
    Number,
    Rule,
)
from areal_cppo.config import SCHEDULERS, UPDATE_MODES
from areal_cppo.config.blocks import SECONDS


@dataclass(frozen=True)
class Such(Rule):
    """What a test accepts; `words` say what that is."""

    words: str
    test: Callable[[Any], bool]

    def describe(self) -> str:
        return self.words

    def accepts(self, value: Any) -> bool:
        return self.test(value)


def _only(value: Any, why: str) -> Such:
    return Such(f"{str(value).lower()}, {why}", lambda found: found == value)


def _below_one(value: Any) -> bool:
    return FRACTION.accepts(value) and value < 1


_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
NAME = Such(
    "a name of at most 100 letters, digits, dots, - and _ (folders, shells and other "
    "processes have to take it)",
    lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value)),
)
PATH = Such(
    "a path without spaces or other characters that a shell reads (AReaL's schedulers "
    "pass it through one)",
    lambda value: isinstance(value, str) and shlex.quote(value) == value,
)
GIVEN = Such("a block with type and lr", lambda value: value is not None)
ANY_NUMBER, NOT_NEGATIVE = Number(), Number(low=0)
WHOLE = Number(low=0, integer=True)
# Lists of so many are made: more would take the memory of a machine.
MANY = Number(low=1, high=1_000_000, integer=True)
MANY_OR_0 = Number(low=0, high=1_000_000, integer=True)
V1 = _only("v1", "the only controller that CPPO is made for")
DTYPE = ("float32", "fp32", "bfloat16", "bf16")

Row = Rule | tuple[Rule, str]  # the second is how to mend it

# Of each block its fields. Blocks that are alike share the rows of one: `reading`.
BLOCKS: dict[str, dict[str, Row]] = {
    "": {
        "experiment_name": NAME,
        "trial_name": NAME,
        "seed": Number(low=0, high=2**32 - 1, integer=True),
        "total_train_epochs": MANY,
        # 0: a study that only looks at a policy.
        "total_train_steps": (MANY_OR_0, "null trains for total_train_epochs"),
    },
    "cluster": {
        "fileroot": PATH,
        "n_nodes": COUNT,
        "n_gpus_per_node": WHOLE,
        "name_resolve.type": (Choice(("nfs", "etcd3", "ray")), "nfs needs no service"),
        "name_resolve.nfs_record_root": PATH,
    },
    "scheduler": {"type": Choice(SCHEDULERS)},
    "train_dataset": {"batch_size": MANY},
    "saver": {
        "freq_epochs": (COUNT, "null for never"),
        "freq_steps": (COUNT, "null for never"),
        "freq_secs": (
            Such("null", lambda value: False),
            "AReaL's single controller fails on it: use freq_steps or freq_epochs",
        ),
        "mode": Choice(("auto", "sync", "async")),
    },
    "recover": {
        "freq_secs": COUNT,
        "retries": WHOLE,
        "mode": Choice(("on", "auto", "off", "disabled")),
    },
    "stats_logger": {
        "wandb.mode": Choice(("online", "offline", "disabled", "shared")),
        "swanlab.mode": Choice(("cloud", "local", "disabled", "offline")),
        "trackio.mode": Choice(("disabled", "online", "local")),
    },
    "perf_tracer": {"profile_steps.*": WHOLE},
    "memory_profiler": {"profile_steps.*": WHOLE, "max_entries": COUNT},
    "gconfig": {  # and the bounds of `agreements` where it is trained on
        "n_samples": MANY,
        "max_new_tokens": COUNT,
        "max_tokens": COUNT,
        "top_p": POSITIVE_FRACTION,
        "top_k": Such("-1 (all) or 1 or more", lambda value: value == -1 or value > 0),
        "temperature": Number(low=0, high=100),
        "stop_token_ids.*": WHOLE,
        "frequency_penalty": Number(low=-2, high=2),
        "lora_name": NAME,
        "use_beam_search": _only(False, "which SGLang lacks"),
    },
    "rollout": {
        "max_concurrent_rollouts": (MANY, "null is rollout.consumer_batch_size"),
        "queue_size": (MANY, "null is 16 times max_concurrent_rollouts"),
        "consumer_batch_size": MANY,
        "max_head_offpolicyness": (MANY_OR_0, "0 is synchronous, 2 is usual"),
        "setup_timeout": SECONDS,
        "request_timeout": SECONDS,
        "request_retries": COUNT,
        "pause_grace_period": Number(low=0, high=1e6),
        "routing_strategy": Choice(("round_robin",)),
        "agent.mode": (
            Choice(("inline", "subproc")),
            "online would train on other problems than train_dataset's",
        ),
        "_version": V1,
    },
    "actor": {
        "init_from_scratch": _only(False, "for servers begin with actor.path"),
        "is_critic": _only(False, "for it is a policy"),
        "temperature": Number(low=0, high=100),
        "mb_spec.n_mbs": COUNT,
        "mb_spec.granularity": COUNT,
        "mb_spec.max_tokens_per_mb": COUNT,
        "mb_spec.n_mbs_divisor": COUNT,
        "mb_spec.packing_algorithm": Choice(("ffd", "kk")),
        "dtype": (Choice(DTYPE), "there is no loss scaling for float16"),
        "grad_reduce_dtype": Choice(("float32", "bfloat16")),
        "optimizer_dtype": Choice(DTYPE),
        "optimizer": (GIVEN, "without one nothing is trained"),
        "optimizer.type": Choice(("adam", "adam_bf16", "sgd")),
        "optimizer.lr": Number(low=0, high=10),
        "optimizer.weight_decay": Number(low=0, high=10),
        "optimizer.beta1": Such("a number >= 0 and < 1", _below_one),
        "optimizer.beta2": Such("a number >= 0 and < 1", _below_one),
        "optimizer.eps": POSITIVE_FRACTION,
        "optimizer.min_lr_ratio": FRACTION,
        "optimizer.lr_scheduler_type": Choice(("constant", "linear", "cosine")),
        "optimizer.warmup_steps_proportion": FRACTION,
        "optimizer.gradient_clipping": (POSITIVE, "a large number clips nothing"),
        "weight_update_mode": Choice(UPDATE_MODES),
        "fsdp.optim_step_prefetch_layers": WHOLE,
        "lora_rank": COUNT,
        "lora_alpha": COUNT,
        "peft_type": Choice(("lora",)),
        "_version": V1,
        "scheduling_strategy.type": Choice(("separation", "colocation")),
        "scheduling_spec.*.cpu": COUNT,
        "scheduling_spec.*.gpu": WHOLE,
        "scheduling_spec.*.mem": COUNT,
        "scheduling_spec.*.port_count": (
            Number(low=2, high=1000, integer=True),
            "a worker's own and one for torch",
        ),
        "scheduling_spec.*.task_type": Choice(("worker", "engine")),
        "scheduling_spec.*.container_type": Choice(("apptainer", "none")),
        "scheduling_spec.*.ray_placement_strategy": Choice(
            ("shared", "separate", "deferred")
        ),
        "ppo_n_minibatches": COUNT,
        "eps_clip": (NOT_NEGATIVE, "0.2 is usual, a large number clips nothing"),
        "eps_clip_higher": (NOT_NEGATIVE, "null is eps_clip"),
        "c_clip": (Number(low=1, low_open=True), "3 is usual, null turns it off"),
        "m2_threshold": (POSITIVE, "null turns it off"),
        "reward_norm.mean_level": Choice(("batch", "group")),
        "reward_norm.std_level": Choice(("batch", "group")),
        "reward_norm.eps": POSITIVE,
        "reward_norm.group_size": COUNT,
        "reward_scaling": (POSITIVE, "a wrong answer would be worth as much, or more"),
        "reward_bias": ANY_NUMBER,
        "reward_clip": POSITIVE,
        "overlong_tokens": COUNT,
        "overlong_penalty_factor": NOT_NEGATIVE,
        "discount": FRACTION,
        "gae_lambda": FRACTION,
        "kl_ctl": NOT_NEGATIVE,
        "kl_estimator": Choice(("k1", "k2", "k3")),
        "sapo_tau_pos": POSITIVE,
        "sapo_tau_neg": POSITIVE,
        "rejection_sampling.level": Choice(("token", "sequence")),
        "rejection_sampling.action": Choice(("mask", "clamp")),
        "rejection_sampling.metric": Choice(("ratio", "kl_k1", "kl_k2", "kl_k3")),
        "rejection_sampling.agg": Choice(("sum", "mean", "max")),
        "rejection_sampling.upper": ANY_NUMBER,
        "rejection_sampling.lower": ANY_NUMBER,
        "importance_sampling_level": Choice(("token", "sequence")),
        "prox_logp_method": (
            Choice(("recompute", "loglinear", "metrics")),
            "what 2.0 has for it is actor.speed.reuse_proximal here",
        ),
        "log_agent_stats": _only(False, "for there is no agent"),
        "max_new_tokens": COUNT,
        # Ours, beside the blocks, which have bounds of their own.
        "view_seed": Number(low=0, high=2**63 - 1, integer=True),
        "correct_reward": ANY_NUMBER,
    },
    "sglang": {
        "random_seed": Number(low=0, high=2**32 - 1, integer=True),
        "torch_compile_max_bs": COUNT,
        "cuda_graph_max_bs": COUNT,
        "cuda_graph_bs.*": COUNT,
        "triton_attention_num_kv_splits": COUNT,
        "num_continuous_decode_steps": COUNT,
        "attention_backend": Choice(
            tuple(
                "triton torch_native flex_attention nsa cutlass_mla fa3 fa4 flashinfer "
                "flashmla trtllm_mla trtllm_mha dual_chunk_flash_attn aiter wave "
                "intel_amx ascend intel_xpu".split()
            )
        ),
        "sampling_backend": Choice(("flashinfer", "pytorch", "ascend")),
        "context_length": COUNT,
        "mem_fraction_static": (
            Such("a share between 0 and 1", lambda value: 0 < value < 1),
            "0.8 is usual on a GPU of its own",
        ),
        "max_running_requests": COUNT,
        "chunked_prefill_size": Such(
            "-1 (not chunked) or 1 or more", lambda value: value == -1 or value > 0
        ),
        "max_prefill_tokens": COUNT,
        "schedule_policy": Choice(
            ("lpm", "random", "fcfs", "dfs-weight", "lof", "priority", "routing-key")
        ),
        "schedule_conservativeness": POSITIVE,
        "cpu_offload_gb": WHOLE,
        "dtype": Choice(("auto", "half", "float16", "bfloat16", "float", "float32")),
        "kv_cache_dtype": Choice(
            ("auto", "fp8_e5m2", "fp8_e4m3", "bf16", "bfloat16", "fp4_e2m1")
        ),
        "dp_size": COUNT,
        "ep_size": COUNT,
        "max_lora_rank": COUNT,
        "max_loaded_loras": COUNT,
        "lora_backend": Choice(("triton", "csgmv", "ascend", "torch_native")),
        "log_level": Choice(LOG_LEVELS := ("debug", "info", "warning", "error")),
        "log_level_http": Choice(LOG_LEVELS),
        "log_requests_level": Number(low=0, high=3, integer=True),
        "decode_log_interval": COUNT,
        "grammar_backend": Choice(("xgrammar", "outlines", "llguidance", "none")),
        "device": Choice(("cuda", "cpu", "xpu", "hpu", "npu")),
    },
}

# Read, and right with any value of their type, or checked where they are used: paths
# (`areal_cppo.run.preflight`), backends and kernels (`CPPOActorConfig`).
FREE = (
    *("tokenizer_path", "*.path", "*.backend", "*.tokenizer_path", "*.split"),
    *("cluster.name_resolve.etcd3_addr", "cluster.name_resolve.ray_actor_name"),
    *("stats_logger.wandb.*", "stats_logger.swanlab.*", "stats_logger.trackio.*"),
    *("stats_logger.tensorboard.path", "perf_tracer.save_interval"),
    *("perf_tracer.session_tracer.flush_threshold", "*.scheduling_strategy.target"),
    *("*.target_modules.*", "gconfig.stop.*", "sglang.model_path"),
    *("sglang.torchao_config", "sglang.lora_paths.*", "actor.fsdp.wrap_policy.*"),
    *(f"actor.scheduling_spec.*.{name}" for name in ("image", "env_vars", "cmd")),
    *(f"actor.scheduling_spec.*.{name}" for name in ("mount", "nodelist", "exclude")),
    *(f"actor.scheduling_spec.*.{name}*" for name in ("srun_", "additional_")),
)

# No run reads them: what they say goes for other engines, controllers or services.
UNREAD = (
    *("allocation_mode", "cluster.cluster_name", "total_train_n_seqs", "vllm.*"),
    *("critic.*", "teacher.*", "actor.archon.*", "actor.megatron.*"),
    *(f"train_dataset.{name}" for name in ("type", "num_*", "max_length")),
    *(f"train_dataset.{name}*" for name in ("dataset_kwargs", "scheduling_spec")),
    *("train_dataset.setup_timeout", "gconfig.min_new_tokens"),
    *(f"scheduler.{name}*" for name in ("endpoint", "deploy_mode", "functioncall_")),
    *("scheduler.reward_*", "rollout.agent.*", "rollout.lora_name", "rollout.model"),
    *("rollout.poll_interval", "*.admin_api_key", "rollout.api_url"),
    *("rollout.provider_api_key", "actor.log_level", "actor.request_timeout"),
    *("actor.setup_timeout", "actor.log_agent_stats_keys.*"),
    *(f"actor.optimizer.{name}" for name in ("*loss_scale*", "hysteresis")),
)

# What AReaL 2.0 has besides; None: any value is right, or none is read.
NEWER: dict[str, Row | None] = {
    "post_exit_hook": None,
    "actor.enable_delta_weight_update": _only(False, "which is Megatron's"),
    "actor.gae_lambda_kwargs": None,
    "actor.gae_timestep_unit": _only("token", "for a response is one turn"),
    "actor.logprobs_chunk_size": COUNT,
    "actor.optimizer.warmup_steps": (WHOLE, "null is warmup_steps_proportion"),
    "actor.scheduling_spec.*.reservation": None,
    "actor.weight_update_anchor_interval": None,
    "actor.weight_update_delta_method": None,
    "actor.workers_ready_timeout": None,
    "gconfig.drop_incomplete_group": _only(
        False, "for groups.on_failed_response says that"
    ),
    "gconfig.reward_normalization": _only(False, "for actor.reward_norm says that"),
    "gconfig.seed": (
        Such("null", lambda value: False),
        "with one seed all responses of a group would be the same",
    ),
    "rollout.deterministic_sampling": _only(False, "for requests have no seeds"),
    "rollout.workers_ready_timeout": None,
    "sglang.load_format": Choice(("auto", "pt", "safetensors")),
}
