"""What a run takes of GPUs' memory and of the disk, before it has started.

What a trainer's GPU holds at worst is a sum of parts that are not all there at the same
moment, so that it errs on the high side. The worst case: every image has
`data.max_pixels`, one a problem; every response passes the gate, so that the views'
rows are as long as the anchor's; and responses are so short that a micro-batch holds as
many images as its tokens allow. Longer responses leave room for fewer images, and the
sum is less.

Bytes throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from areal.utils.data import DEFAULT_MAX_TOKENS_PER_MB

from areal_cppo.config import memory
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.models import (
    BYTES,
    VISION_MODELS,
    ModelShape,
    cache_bytes_per_token,
)
from areal_cppo.config.resources import shares_one_gpu

_BF16 = BYTES["bfloat16"]
_MOST_TOKENS = 32_768  # more hides no more of what goes between nodes: docs/recipes.md
_TOKENS = 1024  # proposals are multiples of it


def graph_passes(actor: CPPOActorConfig) -> int:
    """Forward passes of a micro-batch that are kept at once for its backward pass."""
    if not actor.uses_views:
        return 1
    settings = actor.objective_settings or actor.cpl
    return 1 + settings.views_with_graph


def view_kinds(actor: CPPOActorConfig) -> int:
    """Views that are made of an image."""
    if not actor.uses_views:
        return 0
    settings = actor.objective_settings or actor.cpl
    return len(settings.view_kinds)


def trainer_memory(
    config: CPPOConfig,
    model_config: Mapping[str, Any],
    parameters: int,
    tokens: int | None = None,
) -> dict[str, int]:
    """What each of the trainer's GPUs holds at worst, by part; their sum is the need.

    Parameters
    ----------
    config
        The experiment.
    model_config
        What the model's config.json says.
    parameters
        Of the model.
    tokens
        Of a micro-batch at most; None: as the configuration says.
    """
    actor, shape = config.actor, ModelShape.from_config(model_config)
    each, checkpointing = BYTES[actor.dtype], actor.gradient_checkpointing
    load = _load(config, shape, tokens)
    image = shape.image_bytes(load.image_tokens)
    patches = load.together * load.image_tokens * shape.merge**2
    passes = graph_passes(actor)
    kept = _kept(actor, load, shape)
    held = "frozen weights" if actor.use_lora else "weights, gradients, Adam"
    parts = {
        held: trainer_bytes(config, parameters),
        "reference policy": _reference(config, shape, parameters, load),
        "pixels": memory.step_pixels(image, load.together, views=view_kinds(actor) > 0),
        "text activations": memory.text_activations(
            shape, load.tokens, passes, each, checkpointing
        ),
        "vision activations": memory.vision_activations(
            shape, patches, passes, each, checkpointing
        ),
        "views that are kept": kept,
        "gathered weights": memory.gathered_weights(shape, each),
        "gradients on their way": _gradients(actor, shape),
        "logits or a layer": max(
            _logits(actor, model_config, shape, load.tokens),
            memory.text_layer(shape, load.tokens, each),
            memory.vision_layer(shape, patches, each),
        ),
        "CUDA and gaps": memory.CUDA,
    }
    return {name: size for name, size in parts.items() if size}


def gpu_need(
    config: CPPOConfig,
    model_config: Mapping[str, Any],
    parameters: int,
    tokens: int | None = None,
) -> int:
    """What such a GPU has to have: also for a server, where the two share it."""
    need = sum(trainer_memory(config, model_config, parameters, tokens).values())
    if shares_one_gpu(config):
        server = server_memory(config, model_config, parameters)
        need += sum(server.values()) + memory.CUDA
    return need


def most_tokens(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int, card: int
) -> int | None:
    """The most tokens a micro-batch that leave a tenth of a GPU of `card` bytes free.

    In thousands (of 1,024), up to 32; None: the longest prompt and response alone leave
    less.
    """
    least = config.longest_prompt + config.gconfig.max_new_tokens
    for tokens in range(_MOST_TOKENS, least - 1, -_TOKENS):
        if gpu_need(config, model_config, parameters, tokens) <= 0.9 * card:
            return tokens
    return None


def worst_case(config: CPPOConfig, model_config: Mapping[str, Any]) -> str:
    """What `trainer_memory` takes to be in a micro-batch, in words."""
    load = _load(config, ModelShape.from_config(model_config))
    text = f"micro-batches of {load.tokens:,} tokens"
    if load.together:
        text += f", in it {load.together} image(s) of {load.image_tokens:,} tokens"
    if config.actor.uses_views:
        text += ", all responses past the gate"
    return text


@dataclass(frozen=True)
class _Load:
    """What a rank gets at worst.

    Attributes
    ----------
    image_tokens
        Of each image.
    tokens, together
        Tokens and images of a micro-batch.
    """

    image_tokens: int
    tokens: int
    together: int


def _load(config: CPPOConfig, shape: ModelShape, tokens: int | None = None) -> _Load:
    actor = config.actor
    problems = config.train_dataset.batch_size // actor.parallel.data_parallel_size
    images = -(-problems // actor.ppo_n_minibatches)  # of whole groups
    if tokens is None:
        tokens = actor.mb_spec.max_tokens_per_mb or DEFAULT_MAX_TOKENS_PER_MB
    room = min(tokens, config.data.max_prompt_tokens) - memory.MARKS
    image = max(1, min(shape.image_tokens(config.data.max_pixels), room))
    together = min(images, memory.images_at_once(shape, tokens, image))
    return _Load(image, tokens, together)


def _logits(
    actor: CPPOActorConfig,
    model_config: Mapping[str, Any],
    shape: ModelShape,
    tokens: int,
) -> int:
    each = BYTES[actor.dtype]
    if model_config.get("model_type") not in VISION_MODELS:  # AReaL's own way
        return memory.stock_logits(shape, tokens, each)
    if actor.speed.response_logits:
        return memory.chunked_logits(shape, tokens, each)
    return memory.whole_logits(shape, tokens, each)


def _kept(actor: CPPOActorConfig, load: _Load, shape: ModelShape) -> int:
    """What views keep that are not computed again (`actor.kept_view_tokens`)."""
    graphs = graph_passes(actor) - 1
    tokens = min(actor.kept_view_tokens, graphs * load.tokens)
    if not tokens or not actor.gradient_checkpointing:
        return 0
    each, image = BYTES[actor.dtype], load.image_tokens
    images = graphs * load.together
    images = min(images, memory.images_at_once(shape, tokens, image))
    patches = images * image * shape.merge**2
    return memory.text_activations(shape, tokens, 1, each, False) + (
        memory.vision_activations(shape, patches, 1, each, False)
    )


def _gradients(actor: CPPOActorConfig, shape: ModelShape) -> int:
    if actor.use_lora:  # the adapters' are a few thousandths
        return 0
    each, reduced = BYTES[actor.dtype], BYTES[actor.grad_reduce_dtype]
    return memory.reduced_gradients(shape, actor.parallel.world_size, each, reduced)


def _reference(
    config: CPPOConfig, shape: ModelShape, parameters: int, load: _Load
) -> int:
    """The reference policy on the trainer's GPUs: its shard and, in a process of its
    own, what its forward pass over the whole batch has left in the allocator."""
    ref = config.ref
    if not config.uses_reference or ref.scheduling_strategy.type != "colocation":
        return 0
    weights = parameters * BYTES[ref.optimizer_dtype] // ref.parallel.world_size
    if not ref.scheduling_strategy.fork:
        return weights
    each, image = BYTES[ref.dtype], shape.image_bytes(load.image_tokens)
    return (
        weights
        + memory.step_pixels(image, load.together, views=False)
        + memory.gathered_weights(shape, each)
        + memory.chunked_logits(shape, load.tokens, each)
        + memory.CUDA
    )


def trainer_bytes(config: CPPOConfig, parameters: int) -> int:
    """Parameters, gradients and Adam's moments on each of the trainer's GPUs, bytes.

    Without activations and logits; of LoRA the frozen weights alone, since the adapters
    are a few thousandths of them.
    """
    actor = config.actor
    if actor.fsdp.offload_params:
        return 0
    stored = BYTES[actor.optimizer_dtype]
    if actor.use_lora:
        each = stored
    elif actor.optimizer is not None and actor.optimizer.type == "adam_bf16":
        each = stored + stored + 3 * _BF16  # two moments and what rounding lost
    else:
        each = 4 * stored  # the parameter, its gradient, two moments
    return parameters * each // actor.parallel.world_size


def server_memory(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
) -> dict[str, int]:
    """Weights, and keys and values, on each GPU of a generation server, in bfloat16.

    Of `sglang.max_total_tokens`, or as many as `sglang.max_running_requests` of the
    longest context come to; of a single token where nothing limits them.
    """
    sglang = config.sglang
    parallel = config.rollout.parallel
    gpus = parallel.tp_size * parallel.pp_size
    tokens = (sglang.max_running_requests or 1) * (sglang.context_length or 1)
    if sglang.max_total_tokens is not None:
        tokens = sglang.max_total_tokens
    each = cache_bytes_per_token(model_config)
    held = f"keys and values of {tokens:,} tokens, {each // gpus // 2**10} KiB each"
    return {
        "weights": parameters * _BF16 // gpus,
        held: tokens * each // gpus,
    }


def checkpoint_bytes(config: CPPOConfig, parameters: int) -> int:
    """Disk that a run's checkpoints take in the end, bytes.

    AReaL keeps every checkpoint that its `saver` writes; of those to go on from
    `recover.keep` are kept, while one more is written.
    """
    saved = 1  # the last
    if config.saver.freq_epochs:
        saved += config.total_train_epochs // config.saver.freq_epochs
    validation = config.validation
    saved += bool(config.valid_dataset and validation.every and validation.keep_best)
    each = 0 if config.actor.use_lora else BYTES[config.actor.dtype]
    total = saved * each * parameters  # in the dtype computed in
    if config.recover.on:
        stored = BYTES[config.actor.optimizer_dtype]
        size = parameters * stored * (1 if config.actor.use_lora else 3)
        total += size * (config.recover.keep + 1)
    return total
