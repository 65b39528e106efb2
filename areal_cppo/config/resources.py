"""Whether a configuration's GPUs, batches and lengths fit together, before a start.

AReaL finds most of these mistakes out only when models are loaded or, as a sequence
that is longer than a micro-batch, in the middle of training. What works is let through,
however unusual.

Not checked: whether the memory of the GPUs suffices (`budget` has the arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from areal.api.cli_args import SchedulingStrategy, SchedulingStrategyType

from areal_cppo.config import SDPA
from areal_cppo.config.agreements import disagreements
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import all_of

# SGLang's default for max_loras_per_batch, which AReaL has no setting for; SGLang
# refuses to start with fewer loaded adapters.
_SGLANG_ADAPTERS = 8

# Names of linear layers in the vision towers. SGLang applies adapters to the language
# model only and leaves the others out in silence.
_VISION_LAYERS = {
    "qwen2_vl": {"qkv", "proj", "fc1", "fc2"},
    "qwen2_5_vl": {"qkv", "proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3_vl": {"qkv", "proj", "linear_fc1", "linear_fc2"},
}


def check_resources(config: CPPOConfig, model_config: Mapping[str, Any]) -> None:
    """Refuse a configuration whose parts don't fit together.

    Parameters
    ----------
    config
        The experiment.
    model_config
        What the model's config.json says.

    Raises
    ------
    UserError
        All that doesn't fit, a line each.
    """
    found = violations(config, model_config)
    if found:
        raise all_of(found)


def violations(config: CPPOConfig, model_config: Mapping[str, Any]) -> list[str]:
    """What doesn't fit, a line each: expected, found, and how to mend it."""
    return [
        *disagreements(config),
        *_gpus(config),
        *_batches(config),
        *_lengths(config, model_config),
        *_lora(config, model_config),
    ]


def gpus(config: CPPOConfig) -> dict[str, int]:
    """GPUs that each role takes for itself; a colocated one takes its target's.

    Returns
    -------
    dict
        `trainer`, `generation` and, if there is one, `reference` -> number.
    """
    taken = {
        "trainer": config.actor.parallel.world_size,
        "generation": 0 if _takes_turns(config) else config.rollout.parallel.world_size,
    }
    if config.uses_reference:
        alone = not _colocated(config.ref.scheduling_strategy)
        taken["reference"] = config.ref.parallel.world_size if alone else 0
    return taken


def shares_one_gpu(config: CPPOConfig) -> bool:
    """Whether trainer and server work at the same time on the only GPU there is.

    AReaL's local scheduler hands out GPUs in turn, and begins anew when there are none
    left; within a job of Slurm `cluster.layout` gives it to both.
    """
    cluster = config.cluster
    return (
        config.scheduler.type in ("local", "allocation")
        and cluster.n_nodes * cluster.n_gpus_per_node == 1
        and gpus(config) == {"trainer": 1, "generation": 1}
    )


def _colocated(strategy: SchedulingStrategy) -> bool:
    return SchedulingStrategyType(strategy.type) == SchedulingStrategyType.colocation


def _takes_turns(config: CPPOConfig) -> bool:
    """Whether trainer and servers take turns on the same GPUs (AReaL's colocation)."""
    return _colocated(config.rollout.scheduling_strategy) or _colocated(
        config.actor.scheduling_strategy
    )


def _gpus(config: CPPOConfig) -> Iterator[str]:
    cluster = config.cluster
    total = cluster.n_nodes * cluster.n_gpus_per_node
    if total == 0:
        yield from _without_gpus(config)
        return
    if config.scheduler.type == "local" and cluster.n_nodes > 1:
        yield (
            f"cluster.n_nodes: expected 1 with scheduler.type=local, found "
            f"{cluster.n_nodes}; write a job with areal-cppo slurm --nodes "
            f"{cluster.n_nodes} (docs/slurm.md; for a dry run of it set "
            "scheduler.type=allocation), or set scheduler.type=ray"
        )
    taken = gpus(config)
    used = sum(taken.values())
    parts = " + ".join(f"{name} {number}" for name, number in taken.items() if number)
    shared = shares_one_gpu(config)
    # With Slurm or Ray n_gpus_per_node is the nodes', of which not all need be used.
    idle = used < total and config.scheduler.type == "local"
    if (used > total and not shared) or idle:
        yield (
            f"actor.backend, rollout.backend: expected {total} GPUs in all "
            f"(cluster: {cluster.n_nodes} node(s) x {cluster.n_gpus_per_node}), found "
            f"{parts} = {used}; change the numbers after d in the backends, or "
            "cluster.n_gpus_per_node"
        )
    for name, engine in (("actor", config.actor), ("rollout", config.rollout)):
        if engine.scheduling_spec[0].gpu < 1:
            yield (
                f"{name}.scheduling_spec: expected gpu: 1 or more in a cluster with "
                f"GPUs, found {engine.scheduling_spec[0].gpu}; set gpu: 1"
            )
    turns = _takes_turns(config)
    if (shared or turns) and config.actor.weight_update_mode != "disk":
        yield (
            "actor.weight_update_mode: expected disk where trainer and servers have "
            f"the same GPUs, found {config.actor.weight_update_mode} (NCCL refuses two "
            "processes on one GPU); set actor.weight_update_mode=disk"
        )
    if turns and not (config.enable_offload and config.sglang.enable_memory_saver):
        yield (
            "enable_offload, sglang.enable_memory_saver: expected both true where "
            "trainer and servers take turns on the same GPUs, found "
            f"{config.enable_offload} and {config.sglang.enable_memory_saver}; set "
            "both, or use scheduling_strategy separation"
        )


def _without_gpus(config: CPPOConfig) -> Iterator[str]:
    if _takes_turns(config):
        yield (
            "rollout.scheduling_strategy: expected separation without GPUs "
            "(cluster.n_gpus_per_node=0), found colocation, which moves weights off one"
        )
    engines = {"actor": config.actor}
    if config.uses_reference:
        engines["ref"] = config.ref
    for name, engine in engines.items():
        if engine.attn_impl != SDPA:
            yield (
                f"{name}.attn_impl: expected sdpa without GPUs "
                f"(cluster.n_gpus_per_node=0), found {engine.attn_impl}, which runs on "
                f"GPUs only; set {name}.attn_impl=sdpa"
            )


def _batches(config: CPPOConfig) -> Iterator[str]:
    if config.total_train_steps == 0:
        yield (
            "total_train_steps: expected 1 or more, or null, found 0; null trains for "
            "total_train_epochs"
        )
    problems, samples = config.train_dataset.batch_size, config.gconfig.n_samples
    ranks = config.actor.parallel.data_parallel_size
    if problems % ranks:
        yield (
            f"train_dataset.batch_size: expected a multiple of the trainer's {ranks} "
            f"data-parallel ranks (actor.backend={config.actor.backend}), found "
            f"{problems}; AReaL gives each rank as many whole groups as the others"
        )
        return
    responses = problems * samples // ranks
    minibatches = config.actor.ppo_n_minibatches
    if minibatches > responses:
        yield (
            f"actor.ppo_n_minibatches: expected at most a rank's {responses} responses "
            f"({problems} problems x {samples} / {ranks} ranks), found {minibatches}; "
            "change one of them"
        )
        return
    spec = config.actor.mb_spec
    least = max(spec.n_mbs or 1, spec.n_mbs_divisor) * spec.granularity
    if responses // minibatches < least:
        yield (
            f"actor.mb_spec: expected no more micro-batches than the "
            f"{responses // minibatches} responses of a rank's minibatch, found "
            f"at least {least}; lower n_mbs, n_mbs_divisor or granularity"
        )
    for name, norm in (
        ("reward_norm", config.actor.reward_norm),
        ("adv_norm", config.actor.adv_norm),
    ):
        by_group = norm is not None and "group" in (norm.mean_level, norm.std_level)
        if by_group and norm.group_size != samples:
            yield (
                f"actor.{name}.group_size: expected gconfig.n_samples, {samples}, "
                f"found {norm.group_size}; set it to ${{gconfig.n_samples}}"
            )


def _lengths(config: CPPOConfig, model_config: Mapping[str, Any]) -> Iterator[str]:
    prompt, response = config.longest_prompt, config.gconfig.max_new_tokens
    whole = f"{prompt} of the prompt + {response} of the response"
    need = prompt + response
    fix = "raise it, or lower data.max_prompt_tokens or gconfig.max_new_tokens"
    limits = [
        ("sglang.context_length", config.sglang.context_length),
        ("sglang.max_total_tokens", config.sglang.max_total_tokens),
        ("gconfig.max_tokens", config.gconfig.max_tokens),
        ("actor.mb_spec.max_tokens_per_mb", config.actor.mb_spec.max_tokens_per_mb),
    ]
    for name, limit in limits:
        if limit is not None and limit < need:
            yield f"{name}: expected {need} tokens ({whole}), found {limit}; {fix}"
    if config.actor.max_new_tokens != response:
        yield (
            f"actor.max_new_tokens: expected gconfig.max_new_tokens, {response}, found "
            f"{config.actor.max_new_tokens}; set it to ${{gconfig.max_new_tokens}}"
        )
    text = model_config.get("text_config", model_config)
    window = text.get("sliding_window") if text.get("use_sliding_window") else None
    if window is not None and need > window:
        yield (
            f"gconfig.max_new_tokens: expected a sequence no longer than the model's "
            f"sliding window of {window} tokens, found {need} ({whole}), of which the "
            "trainer would see more than the model; lower it, or "
            "data.max_prompt_tokens"
        )
    positions = text.get("max_position_embeddings")
    asked = config.sglang.context_length or need
    if positions is not None and asked > positions:
        yield (
            f"sglang.context_length: expected at most the model's {positions} "
            f"positions, found {asked}; lower it"
        )


def _lora(config: CPPOConfig, model_config: Mapping[str, Any]) -> Iterator[str]:
    actor, rollout, sglang = config.actor, config.rollout, config.sglang
    if actor.use_lora != rollout.use_lora:
        yield (
            f"rollout.use_lora: expected {actor.use_lora}, as actor.use_lora has it, "
            f"found {rollout.use_lora}; set both alike"
        )
    if not actor.use_lora:
        return
    if actor.weight_update_mode != "disk":
        yield (
            "actor.weight_update_mode: expected disk with actor.use_lora, found "
            f"{actor.weight_update_mode}; SGLang loads adapters from files only"
        )
    if not sglang.enable_lora:
        yield (
            f"sglang.enable_lora: expected true with actor.use_lora, found "
            f"{sglang.enable_lora}; set sglang.enable_lora=true"
        )
    if sglang.max_lora_rank is not None and sglang.max_lora_rank < actor.lora_rank:
        yield (
            f"sglang.max_lora_rank: expected actor.lora_rank, {actor.lora_rank}, or "
            f"more, found {sglang.max_lora_rank}; raise it"
        )
    # AReaL keeps max_head_offpolicyness + 2 versions and loads one before it drops one.
    versions = max(rollout.max_head_offpolicyness + 3, _SGLANG_ADAPTERS)
    if sglang.max_loaded_loras < versions:
        yield (
            f"sglang.max_loaded_loras: expected {versions} or more with "
            f"rollout.max_head_offpolicyness={rollout.max_head_offpolicyness}, found "
            f"{sglang.max_loaded_loras}; raise it"
        )
    layers = _VISION_LAYERS.get(model_config.get("model_type", ""))
    if layers is None:  # a text model
        return
    targets = set(actor.target_modules or ["all-linear"])
    vision = sorted((layers | {"all-linear"}) & targets)
    if vision:
        yield (
            "actor.target_modules: expected layers of the language model only, found "
            f"{', '.join(vision)}, which the vision tower has too and SGLang leaves "
            "out there: server and trainer would be different policies; use q_proj, "
            "k_proj, v_proj, o_proj"
        )
