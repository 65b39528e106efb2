"""What a trainer's GPU holds at worst, from the configuration and config.json alone.

A sum of parts that are not all there at the same moment, so that it errs on the high
side. The worst case: every image has `data.max_pixels`, one a problem; every response
passes the gate, so that the views' rows are as long as the anchor's; and responses are
so short that a micro-batch holds as many images as its tokens allow. Longer responses
leave room for fewer images, and the sum is less.

How many tensors of a size a pass keeps was counted with `areal_cppo.bench.counting` on
AReaL 1.0.4 and transformers 5.3.0, in bf16 with flash-attention's kernel stood in for
(tests/config/test_memory.py counts again). `CUDA` is an assumption.

Bytes throughout. Letters: `T` tokens of a micro-batch, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from areal.api.alloc_mode import ModelAllocation
from areal.utils.data import DEFAULT_MAX_TOKENS_PER_MB

from areal_cppo.config.experiment import CPPOActorConfig, CPPOConfig
from areal_cppo.config.model_size import BYTES, ModelShape, trainer_bytes
from areal_cppo.config.models import VISION_MODELS
from areal_cppo.config.resources import uses_reference
from areal_cppo.core.head import CHUNK

GIB = 2**30
_FP32 = 4
CUDA = 2 * GIB  # with NCCL, and gaps that the allocator leaves
_MARKS = 2  # tokens around an image's


def text_activations(
    shape: ModelShape, tokens: int, passes: int, each: int, checkpointing: bool = True
) -> int:
    """What passes of the text model keep for the backward pass.

    With gradient checkpointing passes x (layers + 6) x T x hidden x `each`: the input
    of every layer; of the ends the embeddings, the last norm and positions. Without it
    every layer keeps what `text_layer` has.
    """
    if not checkpointing:
        return passes * shape.layers * text_layer(shape, tokens, each)
    return passes * (shape.layers + 6) * tokens * shape.hidden * each


def vision_activations(
    shape: ModelShape, patches: int, passes: int, each: int, checkpointing: bool = True
) -> int:
    """What passes of the vision tower keep for the backward pass.

    With gradient checkpointing passes x patches x ((blocks + 7) x width + features) x
    `each`: the input of every block; of the ends the merger, and the patches in the
    dtype computed in. The tower's is a graph under LoRA, too: transformers has the
    embedded patches require gradient.
    """
    if not checkpointing:
        return passes * shape.blocks * vision_layer(shape, patches, each)
    kept = (shape.blocks + 7) * shape.width + shape.features
    return passes * patches * kept * each


def text_layer(shape: ModelShape, tokens: int, each: int) -> int:
    """A text layer computed again, with its gradients: T x (6 x inner + 13 x hidden) x
    `each`, parts of it in fp32."""
    return tokens * (6 * shape.inner + 13 * shape.hidden) * each


def vision_layer(shape: ModelShape, patches: int, each: int) -> int:
    """A vision block likewise: patches x (6 x inner + 17 x width) x `each`."""
    return patches * (6 * shape.vision_inner + 17 * shape.width) * each


def chunked_logits(shape: ModelShape, tokens: int, each: int) -> int:
    """Our head at work on at most CHUNK tokens: CHUNK x V x (2 x `each` + 12).

    Logits and their gradient in the dtype computed in; in fp32 log-probabilities and
    two gradients.
    """
    return min(tokens, CHUNK) * shape.vocabulary * (2 * each + 3 * _FP32)


def whole_logits(shape: ModelShape, rows: int, each: int) -> int:
    """Our head with `speed.response_logits` off: rows x V x (`each` + 16)."""
    return rows * shape.vocabulary * (each + 4 * _FP32)


def stock_logits(
    shape: ModelShape, tokens: int, each: int, published: bool = False
) -> int:
    """AReaL's logits, of all tokens at once: V x (T x (`each` + 8) + 4 x 1,024).

    Logits, in fp32 log-probabilities and probabilities; its loss takes 1,024 rows at a
    time. The published CPPO keeps three passes' logits and four times statistics: V x
    (T x (3 x `each` + 26) + 4 x 1,024).
    """
    kept = 3 * each + 26 if published else each + 2 * _FP32
    return shape.vocabulary * (tokens * kept + _FP32 * min(tokens, 1024))


def gathered_weights(shape: ModelShape, each: int) -> int:
    """What FSDP2 gathers: (2 x root + 2 x layer) x `each`.

    The root's weights through the whole pass, and as much for the buffer they come in,
    which serves the layers afterwards; a layer's, and those of the next.
    """
    return (2 * shape.root + 2 * shape.layer) * each


def reduced_gradients(shape: ModelShape, ranks: int, each: int, reduced: int) -> int:
    """Gradients of FSDP2's largest unit on their way: root x (`each` + r + r / ranks).

    As computed, the input of the reduce-scatter in `actor.grad_reduce_dtype` (fp32: r =
    4), its output.
    """
    return shape.root * (each * ranks + reduced * ranks + reduced) // ranks


def step_pixels(
    image: int, responses: int, images: int, kinds: int, places: int | None = None
) -> int:
    """Images on the GPU: image x (responses + images x kinds + places x rows).

    One for each of the rank's responses: AReaL moves what a call is given to the GPU
    (`areal/infra/rpc/guard/engine_blueprint.py`, `rpc_meta` broadcast), and nothing
    there or in `prepare_batch` knows that the responses of a group share theirs. Of
    each image of a mini-batch another for each kind of view, which `ViewMaker` leaves
    where the images are; and one wherever it stands in a row, the anchor's and, with
    views, theirs: all rows are made before the first pass (`_image_inputs`).

    Parameters
    ----------
    image
        Bytes of one.
    responses
        Of a rank, in a step.
    images
        Different ones of a mini-batch.
    kinds
        Of views.
    places
        Images in the anchor's rows; by default each is in one.
    """
    rows = 2 if kinds else 1
    places = images if places is None else places
    return image * (responses + images * kinds + places * rows)


def graph_passes(actor: CPPOActorConfig) -> int:
    """Forward passes of a micro-batch that are kept at once for its backward pass."""
    if not actor.uses_views or actor.objective == "vppo":
        return 1
    if actor.objective == "papo":
        return 2 if actor.papo.negative_grad else 1
    return 1 + len({"positive", "negative"} & set(actor.cpl.grad))


def view_kinds(actor: CPPOActorConfig) -> int:
    """Views that are made of an image."""
    if not actor.uses_views:
        return 0
    return 2 if actor.uses_cpl else 1


def images_at_once(shape: ModelShape, tokens: int, image: int) -> int:
    """Images of so many tokens that a micro-batch of `tokens` holds, at most."""
    return max(1, tokens // (image + _MARKS)) if shape.blocks else 0


def trainer_memory(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
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
    """
    actor, shape = config.actor, ModelShape.from_config(model_config)
    each, checkpointing = BYTES[actor.dtype], actor.gradient_checkpointing
    load = _load(config, shape)
    image = shape.image_bytes(load.image_tokens)
    patches = load.together * load.image_tokens * shape.merge**2
    passes = graph_passes(actor)
    held = "frozen weights" if actor.use_lora else "weights, gradients, Adam"
    parts = {
        held: trainer_bytes(config, parameters),
        "reference policy": _reference(config, shape, parameters, load),
        "pixels": step_pixels(image, load.responses, load.images, view_kinds(actor)),
        "text activations": text_activations(
            shape, load.tokens, passes, each, checkpointing
        ),
        "vision activations": vision_activations(
            shape, patches, passes, each, checkpointing
        ),
        "gathered weights": gathered_weights(shape, each),
        "gradients on their way": _gradients(actor, shape),
        "logits or a layer": max(
            _logits(actor, model_config, shape, load.tokens),
            text_layer(shape, load.tokens, each),
            vision_layer(shape, patches, each),
        ),
        "CUDA and gaps": CUDA,
    }
    return {name: size for name, size in parts.items() if size}


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
    problems, responses
        Of a step.
    images
        Different ones of a mini-batch.
    tokens, together
        Tokens and images of a micro-batch.
    """

    image_tokens: int
    problems: int
    responses: int
    images: int
    tokens: int
    together: int


def _load(config: CPPOConfig, shape: ModelShape) -> _Load:
    actor = config.actor
    ranks = ModelAllocation.from_str(actor.backend, name="actor").parallel
    problems = config.train_dataset.batch_size // ranks.data_parallel_size
    responses = problems * config.gconfig.n_samples
    images = min(problems, responses // actor.ppo_n_minibatches)
    tokens = actor.mb_spec.max_tokens_per_mb or DEFAULT_MAX_TOKENS_PER_MB
    room = min(tokens, config.data.max_prompt_tokens) - _MARKS
    image = max(1, min(shape.image_tokens(config.data.max_pixels), room))
    together = min(images, images_at_once(shape, tokens, image))
    return _Load(image, problems, responses, images, tokens, together)


def _logits(
    actor: CPPOActorConfig,
    model_config: Mapping[str, Any],
    shape: ModelShape,
    tokens: int,
) -> int:
    each = BYTES[actor.dtype]
    if model_config.get("model_type") not in VISION_MODELS:  # AReaL's own way
        return stock_logits(shape, tokens, each)
    if actor.speed.response_logits:
        return chunked_logits(shape, tokens, each)
    return whole_logits(shape, tokens, each)


def _gradients(actor: CPPOActorConfig, shape: ModelShape) -> int:
    if actor.use_lora:  # the adapters' are a few thousandths
        return 0
    ranks = ModelAllocation.from_str(actor.backend, name="actor").parallel.world_size
    each, reduced = BYTES[actor.dtype], BYTES[actor.grad_reduce_dtype]
    return reduced_gradients(shape, ranks, each, reduced)


def _reference(
    config: CPPOConfig, shape: ModelShape, parameters: int, load: _Load
) -> int:
    """The reference policy on the trainer's GPUs: its shard and, in a process of its
    own, what its forward pass over the whole batch has left in the allocator."""
    ref = config.ref
    if not uses_reference(config) or ref.scheduling_strategy.type != "colocation":
        return 0
    ranks = ModelAllocation.from_str(ref.backend, name="ref").parallel.world_size
    weights = parameters * BYTES[ref.optimizer_dtype] // ranks
    if not ref.scheduling_strategy.fork:
        return weights
    each, image = BYTES[ref.dtype], shape.image_bytes(load.image_tokens)
    return (
        weights
        + step_pixels(image, load.responses, load.problems, kinds=0)
        + gathered_weights(shape, each)
        + chunked_logits(shape, load.tokens, each)
        + CUDA
    )


def gpu_bytes() -> int | None:
    """Memory of the smallest GPU that torch sees; `None`: it sees none."""
    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return min(torch.cuda.get_device_properties(i).total_memory for i in devices)


def in_words(parts: Mapping[str, int]) -> str:
    """`about 41 GiB = 14.0 weights, ... + ...`."""
    terms = " + ".join(f"{size / GIB:.1f} {name}" for name, size in parts.items())
    return f"about {sum(parts.values()) / GIB:.0f} GiB = {terms}"
