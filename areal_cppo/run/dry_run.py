"""What a configuration would start: said by a dry run, and built for real nowhere else.

The commands are AReaL's, a worker's from its scheduling specification and a server's
from `SGLangConfig`, with our modules started in place of its. Ports, and what a
scheduler puts around them, are known only when they are started.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from copy import copy
from typing import Any

import psutil

from areal_cppo.cluster.worker import own_worker
from areal_cppo.config.augmentation import AugmentationConfig
from areal_cppo.config.budget import (
    checkpoint_bytes,
    gpu_need,
    most_tokens,
    server_memory,
    trainer_memory,
    worst_case,
)
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.memory import GIB, gpu_bytes
from areal_cppo.config.resources import gpus, shares_one_gpu
from areal_cppo.serving.launch import guarded

_MIB = 2**20
_CARD = 79 * GIB  # what torch sees of 80 GB
# Resident memory of one with torch, AReaL or SGLang and next to no model, measured.
_BARE_PROCESS = 0.8 * GIB
_OF_A_SERVER = 4  # its worker, its launcher, SGLang's scheduler and detokenizer
_NO_CARD = "GPUs of 80 GB, since none is seen here: "


def server_command(config: CPPOConfig) -> list[str]:
    """The command that starts a generation server; AReaL adds host and port."""
    parallel = config.rollout.parallel
    sglang = copy(config.sglang)
    if config.actor.use_lora:
        # AReaL writes it once the trainer is up, and gives its whole path.
        sglang.lora_paths = [f"{config.gconfig.lora_name}-v0=initial_lora"]
    arguments = sglang.build_args(
        sglang, tp_size=parallel.tp_size, base_gpu_id=0, pp_size=parallel.pp_size
    )
    return guarded(sglang.build_cmd_from_args(arguments))


def worker_command(config: CPPOConfig, role: str) -> list[str]:
    """The command that starts a worker of `actor`, `ref` or `rollout`."""
    engines = {"actor": config.actor, "ref": config.ref, "rollout": config.rollout}
    return [
        *shlex.split(own_worker(engines[role].scheduling_spec[0].cmd)),
        *("--experiment-name", config.experiment_name),
        *("--trial-name", config.trial_name),
        *("--role", role),
    ]


def describe(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
) -> list[str]:
    """The plan, a line a thing.

    Parameters
    ----------
    config
        The experiment, checked by `check_resources`.
    model_config
        What the model's config.json says.
    parameters
        Of the model.
    """
    kind = model_config["model_type"]
    lora = f", LoRA of rank {config.actor.lora_rank}" if config.actor.use_lora else ""
    lag = config.rollout.max_head_offpolicyness
    return [
        f"model: {kind}, {parameters:,} parameters{lora}",
        f"objective: {_objective(config.actor)}, "
        + (f"samples at most {lag} versions old" if lag else "synchronous"),
        *_describe_augmentation(config.augmentation),
        _describe_gpus(config),
        *_describe_memory(config, model_config, parameters),
        _describe_step(config),
        _describe_lengths(config),
        f"disk: {_size(checkpoint_bytes(config, parameters))} of checkpoints, at most",
        *_describe_commands(config),
    ]


def describe_steps(config: CPPOConfig, problems: int) -> str:
    """How many steps a run on so many problems has."""
    epoch, over = divmod(problems, config.train_dataset.batch_size)
    steps = epoch * config.total_train_epochs
    wanted = config.total_train_steps or steps
    said = (
        f"steps: {config.steps_on(problems)}, {config.total_train_epochs} epoch(s) of "
        f"{epoch}"
    )
    said += f", {over} problems left over in each" if over else ""
    if wanted < steps:
        said += "; ended by total_train_steps"
    elif wanted > steps:
        said += f"; raise total_train_epochs for all {wanted} of total_train_steps"
    return said


def _objective(actor: CPPOActorConfig) -> str:
    """The objective and, of those that CPPO is compared with, what they weigh."""
    settings = actor.objective_settings
    words = settings.in_words if settings else ""
    return f"{actor.objective} ({words})" if words else actor.objective


def _describe_augmentation(own: AugmentationConfig) -> list[str]:
    if not own.on:
        return []
    names = " or ".join(view["name"] for view in own.views)
    fading = ", fading" if own.fades else ""
    return [
        f"augmentation: {names} on {own.share:.0%} of "
        + ("a group's responses" if own.of == "responses" else "the problems")
        + f", trained on {own.train_on} images{fading}"
    ]


def _describe_gpus(config: CPPOConfig) -> str:
    trainer, generation = config.actor.backend, config.rollout.backend
    backends = {"trainer": trainer, "generation": generation}
    if config.cluster.n_gpus_per_node == 0:
        return f"GPUs: none; trainer {trainer} and generation {generation} on CPUs"
    if shares_one_gpu(config):
        return f"GPUs: 1, shared by trainer ({trainer}) and generation ({generation})"
    parts = [
        f"{role} {number} ({backends.get(role, config.actor.backend)})"
        for role, number in gpus(config).items()
        if number
    ]
    return f"GPUs: {sum(gpus(config).values())} = {' + '.join(parts)}"


def _describe_memory(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
) -> list[str]:
    if config.cluster.n_gpus_per_node == 0:
        return [_describe_ram(config, parameters)]
    trainer = trainer_memory(config, model_config, parameters)
    server = server_memory(config, model_config, parameters)
    lines = [
        f"memory of a trainer's GPU: {_in_words(trainer)}",
        f"at worst, that is: {worst_case(config, model_config)}",
        f"memory of a server's GPU: {_in_words(server)}; SGLang takes "
        f"{config.sglang.mem_fraction_static} of what is free when it starts for both "
        "(sglang.mem_fraction_static)",
    ]
    lines.append(_describe_fit(config, model_config, parameters))
    return lines


def _describe_ram(config: CPPOConfig, parameters: int) -> str:
    """Without a GPU: each rank's weights, gradients and Adam's moments, each server's
    weights, all in fp32; and what the processes take without a model."""
    ranks = config.actor.parallel.data_parallel_size
    servers = config.rollout.parallel.data_parallel_size
    processes = 1 + ranks + _OF_A_SERVER * servers
    need, bare = 4 * parameters * (4 + servers), processes * _BARE_PROCESS
    there = psutil.virtual_memory().total
    said = (
        f"memory: {_size(need)} for weights, gradients and Adam's moments of {ranks} "
        f"trainer(s) and {servers} server(s), about {_size(bare)} for {processes} "
        f"processes; this machine has {_size(there)}, activations not counted"
    )
    if need + bare > there:
        said += "; without a GPU only tiny models are practical"
    return said


def _describe_fit(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
) -> str:
    """Whether that fits the smallest GPU of this machine (of none: one of 80 GB), and
    how large micro-batches may be."""
    card = gpu_bytes()
    found = f"GPUs of this machine: {_size(card)} each; " if card else _NO_CARD
    card = card or _CARD
    found += "trainer and server " if shares_one_gpu(config) else "a trainer "
    need = gpu_need(config, model_config, parameters)
    most = most_tokens(config, model_config, parameters, card)
    now = config.actor.mb_spec.max_tokens_per_mb
    proposal = f"actor.mb_spec.max_tokens_per_mb={most}"
    if need <= card:
        fits = "fit" if shares_one_gpu(config) else "fits"
        if most is None or most == now:
            return found + fits
        return f"{found}{fits}; {proposal} would leave a tenth of it free"
    found += f"may need {_size(need - card)} more: "
    if most is not None and (now is None or most < now):
        return f"{found}set {proposal}, which leaves a tenth free"
    if shares_one_gpu(config):
        return (
            f"{found}lower actor.mb_spec.max_tokens_per_mb, sglang.max_total_tokens or "
            "data.max_pixels (a ..._lora_24gb.yaml or ..._lora_80gb.yaml shows how)"
        )
    return (
        f"{found}lower actor.mb_spec.max_tokens_per_mb or data.max_pixels, or give "
        "the trainer more ranks"
    )


def _describe_step(config: CPPOConfig) -> str:
    problems, samples = config.train_dataset.batch_size, config.gconfig.n_samples
    each = problems * samples // config.actor.parallel.data_parallel_size
    return (
        f"step: {problems} problems x {samples} responses = {problems * samples}; "
        f"{each} a trainer, in {config.actor.ppo_n_minibatches} minibatch(es), "
        f"micro-batches of at most {config.actor.mb_spec.max_tokens_per_mb} tokens"
    )


def _describe_lengths(config: CPPOConfig) -> str:
    return (
        f"tokens: prompt at most {config.longest_prompt}, "
        f"response at most {config.gconfig.max_new_tokens}, "
        f"context {config.sglang.context_length}"
    )


def _describe_commands(config: CPPOConfig) -> list[str]:
    roles = {"actor": config.actor, "rollout": config.rollout}
    if config.uses_reference:
        roles["ref"] = config.ref
    lines = []
    for role, engine in roles.items():
        servers = role == "rollout"
        ranks = engine.parallel
        count = ranks.data_parallel_size if servers else ranks.world_size
        command = shlex.join(worker_command(config, role))
        lines.append(f"worker: {count} x {command}")
        if servers:
            lines.append(f"server: {count} x {shlex.join(server_command(config))}")
    return lines


def _in_words(parts: Mapping[str, int]) -> str:
    """`about 41 GiB = 14.0 weights, ... + ...`."""
    terms = " + ".join(f"{size / GIB:.1f} {name}" for name, size in parts.items())
    return f"about {sum(parts.values()) / GIB:.0f} GiB = {terms}"


def _size(count: int) -> str:
    if count < GIB:
        return f"{count / _MIB:.0f} MiB"
    return f"{count / GIB:.1f} GiB"
