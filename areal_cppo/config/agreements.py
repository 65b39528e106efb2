"""What several fields have to agree in for a run to train on what it samples.

AReaL takes each of these and fails once started, waits for ever, or trains on something
else than it should without a word. What depends on the model or on the machine's GPUs
is in `resources`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from areal_cppo.config import TASK_NAMES
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import all_of

_ALL_WORDS = 1_000_000  # no vocabulary has so many; AReaL's default is 1e8
_LARGEST_SEED = 2**32 - 1  # of numpy


def check_agreements(config: CPPOConfig) -> None:
    """Refuse a configuration whose fields contradict each other.

    Raises
    ------
    UserError
        All contradictions, a line each.
    """
    found = list(disagreements(config))
    if found:
        raise all_of(found)


def disagreements(config: CPPOConfig) -> Iterator[str]:
    """What does not agree, a line each: expected, found, and how to mend it."""
    yield from _distribution(config)
    yield from _advantages(config)
    yield from _policies(config)
    yield from _rollout(config)
    yield from _augmentation(config)
    yield from _placement(config)
    yield from _seeds(config)
    yield from _heldout(config)


def _heldout(config: CPPOConfig) -> Iterator[str]:
    """Held-out problems are drawn, which only a synthetic task can do."""
    source = config.data.source
    if source in TASK_NAMES:
        return
    if config.heldout.size:
        yield (
            f"heldout.size: expected 0 with data.source={source}, found "
            f"{config.heldout.size}; set it to 0: valid_dataset is what a run is "
            "measured on"
        )
    if config.heldout.shift != "none":
        yield (
            f"heldout.shift: expected none with data.source={source}, found "
            f"{config.heldout.shift}; only synthetic tasks have shifts"
        )


def _distribution(config: CPPOConfig) -> Iterator[str]:
    """The policy that is trained is the one that is sampled from."""
    own = config.gconfig
    why = "the trained distribution would not be the sampled one"
    whole = own.top_k == -1 or own.top_k >= _ALL_WORDS
    for name, right, expected, found in (
        ("greedy", not own.greedy, "false", own.greedy),
        ("top_p", own.top_p == 1, "1", own.top_p),
        ("top_k", whole, "-1 (the whole vocabulary)", own.top_k),
        ("frequency_penalty", not own.frequency_penalty, "0", own.frequency_penalty),
    ):
        if not right:
            yield (
                f"gconfig.{name}: expected {expected}, found {found}; {why} (for an "
                "evaluation set eval_gconfig)"
            )
    if own.temperature < 0.01:  # SGLang takes less than 1e-6 for greedy
        yield (
            f"gconfig.temperature: expected 0.01 or more, found {own.temperature:g}; "
            f"{why} (for an evaluation set eval_gconfig)"
        )
    elif config.actor.temperature != own.temperature:
        yield (
            f"actor.temperature: expected gconfig.temperature, {own.temperature:g}, "
            f"found {config.actor.temperature:g}; {why}: set it to "
            "${gconfig.temperature}"
        )
    if config.uses_reference and config.ref.temperature != config.actor.temperature:
        yield (
            f"ref.temperature: expected actor.temperature, "
            f"{config.actor.temperature:g}, found {config.ref.temperature:g}, of which "
            "the divergence would be another; set it to ${actor.temperature}"
        )
    if own.stop and config.sglang.skip_tokenizer_init:
        yield (
            f"gconfig.stop: expected null with sglang.skip_tokenizer_init, found "
            f"{own.stop}, which a server without a tokenizer cannot look for; set "
            "sglang.skip_tokenizer_init=false, or use gconfig.stop_token_ids"
        )


def _advantages(config: CPPOConfig) -> Iterator[str]:
    actor, samples = config.actor, config.gconfig.n_samples
    for name in ("reward_norm", "adv_norm"):
        norm = getattr(actor, name)
        grouped = norm is not None and norm.mean_level == "group"
        if grouped and samples == 1 and not norm.mean_leave1out:
            yield (
                f"gconfig.n_samples: expected 2 or more with actor.{name}.mean_level="
                f"group, found 1: a response less its own mean is 0, and nothing is "
                f"trained; raise it, or set actor.{name}.mean_level=batch"
            )
    if actor.overlong_reward_penalty:
        if actor.overlong_tokens is None or actor.overlong_penalty_factor is None:
            yield (
                "actor.overlong_tokens, actor.overlong_penalty_factor: expected both "
                "with actor.overlong_reward_penalty, found "
                f"{actor.overlong_tokens} and {actor.overlong_penalty_factor}; set "
                "them, or actor.overlong_reward_penalty=false"
            )
        elif actor.overlong_tokens > actor.max_new_tokens:
            yield (
                "actor.overlong_tokens: expected at most actor.max_new_tokens, "
                f"{actor.max_new_tokens}, found {actor.overlong_tokens}; lower it"
            )
    if actor.fsdp.per_layer_optim_step and actor.optimizer.type != "adam":
        yield (
            "actor.optimizer.type: expected adam with actor.fsdp.per_layer_optim_step, "
            f"found {actor.optimizer.type}; set one of them otherwise"
        )


def _policies(config: CPPOConfig) -> Iterator[str]:
    """There is one policy, and all look for each other under the same names."""
    served, trained = config.sglang.model_path, config.actor.path
    if Path(served).expanduser() != Path(trained).expanduser():
        yield (
            f"sglang.model_path: expected actor.path, {trained}, found {served!r}: the "
            "first samples would be another model's; set it to ${actor.path}"
        )
    blocks = {"actor": config.actor, "rollout": config.rollout}
    if config.uses_reference:
        blocks["ref"] = config.ref
    for block, engine in blocks.items():
        for name in ("experiment_name", "trial_name"):
            expected, found = getattr(config, name), getattr(engine, name)
            # The reference policy alone waits for nobody.
            if found != expected and block != "ref":
                yield (
                    f"{block}.{name}: expected {name}, {expected}, found {found}, "
                    f"under which nobody looks for it; set it to ${{{name}}}"
                )
        if engine.scheduling_strategy.type == "colocation":
            target = engine.scheduling_strategy.target
            if block == "actor" or target != "actor":
                yield (
                    f"{block}.scheduling_strategy: expected "
                    + ("separation" if block == "actor" else "target: actor")
                    + f", found target {target}, which is not there when {block} is "
                    "started; let rollout or ref be colocated with actor"
                )
    for name in ("critic", "teacher"):
        if getattr(config, name) is not None:
            yield (
                f"{name}: expected null, found a block; CPPO is trained without one "
                "(the mean of a group is its baseline): leave it out"
            )


def _rollout(config: CPPOConfig) -> Iterator[str]:
    rollout, problems = config.rollout, config.train_dataset.batch_size
    if rollout.consumer_batch_size != problems:
        less = rollout.consumer_batch_size < problems
        yield (
            f"rollout.consumer_batch_size: expected train_dataset.batch_size, "
            f"{problems}, found {rollout.consumer_batch_size}: "
            + ("a step would wait for ever" if less else "samples would be too old")
            + "; set it to ${train_dataset.batch_size}"
        )
    at_once = rollout.max_concurrent_rollouts or rollout.consumer_batch_size
    least = max(at_once, problems)
    if rollout.queue_size is not None and rollout.queue_size < least:
        yield (
            f"rollout.queue_size: expected {least} or more (so many problems are in it "
            f"at once), found {rollout.queue_size}; raise it, or set it to null"
        )
    if rollout.dump_to_file and not (rollout.tokenizer_path and rollout.fileroot):
        yield (
            "rollout.tokenizer_path, rollout.fileroot: expected both with "
            f"rollout.dump_to_file, found {rollout.tokenizer_path!r} and "
            f"{rollout.fileroot!r}; set ${{tokenizer_path}} and ${{cluster.fileroot}}"
        )


def _augmentation(config: CPPOConfig) -> Iterator[str]:
    own, actor, size = config.augmentation, config.actor, config.gconfig.n_samples
    if not own.on:
        return
    if own.of == "responses" and not 0 < own.seeing(size) < size:
        yield (
            "augmentation.share: expected a part of each group with "
            f"augmentation.of=responses, found {own.share:g}, which is "
            f"{own.seeing(size)} of gconfig.n_samples={size}; set another, or "
            "augmentation.of=problems"
        )
    known = actor.use_decoupled_loss and actor.prox_logp_method == "recompute"
    if own.trains_unlike and not known:
        yield (
            "augmentation.train_on: expected actor.use_decoupled_loss=true and "
            "actor.prox_logp_method=recompute with original, found "
            f"{actor.use_decoupled_loss} and {actor.prox_logp_method}: a sampled "
            "token's ratio would be to what was said of another image; set them, or "
            "augmentation.train_on=seen"
        )
    if own.trains_unlike and config.uses_reference:
        yield (
            "actor.kl_ctl: expected 0 with augmentation.train_on=original, found "
            f"{actor.kl_ctl:g}: AReaL would compare the reference policy, given the "
            "original, with what was said of another image; set it to 0, or "
            "augmentation.train_on=seen"
        )


def _placement(config: CPPOConfig) -> Iterator[str]:
    blocks = {"actor": config.actor}
    if config.ref is not None:  # AReaL looks at it, used or not
        blocks["ref"] = config.ref
    for name, engine in blocks.items():
        if engine.offload and not config.enable_offload:
            yield (
                f"enable_offload: expected true with {name}.offload, found false; set "
                f"it, or {name}.offload=false"
            )


def _seeds(config: CPPOConfig) -> Iterator[str]:
    """AReaL adds a number of each process's own to the seed."""
    counts = {
        "trainer": 1,
        "actor": config.actor.parallel.world_size,
        "rollout": config.rollout.parallel.data_parallel_size,
        "ref": config.ref.parallel.world_size if config.uses_reference else 0,
    }
    names = [f"{role}{rank}" for role in counts for rank in range(counts[role])]
    largest = _LARGEST_SEED - max(
        int(hashlib.sha256(name.encode()).hexdigest(), 16) & _LARGEST_SEED
        for name in names
    )
    if config.seed > largest:
        yield (
            f"seed: expected at most {largest} with so many processes, found "
            f"{config.seed}, which AReaL adds a number to; choose another"
        )
