"""How large a model is, from its config.json alone, and what that means in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from areal.api.alloc_mode import ModelAllocation
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from areal_cppo.config.experiment import CPPOConfig

_BF16 = 2
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a number, by dtype
_CHECKPOINT = 2  # bytes a parameter: saved in the dtype computed in


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model; those of vision are 0 where it has none.

    Attributes
    ----------
    layers, hidden, inner, vocabulary
        Of the text model; `inner` is the width within a feed-forward layer.
    attention
        Parameters of a text layer's attention.
    blocks, width, vision_inner
        Of the vision tower: layers, their width, that within a feed-forward layer.
    patch
        Side of a patch, pixels.
    merge
        Side of the square of patches that becomes a token.
    features
        Numbers of a patch in `pixel_values`.
    """

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    attention: int
    blocks: int = 0
    width: int = 0
    vision_inner: int = 0
    patch: int = 1
    merge: int = 1
    features: int = 0

    @classmethod
    def from_config(cls, model_config: Mapping[str, Any]) -> ModelShape:
        """From config.json of Qwen's families, text nested or flat."""
        text = model_config.get("text_config", model_config)
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        head = text.get("head_dim") or hidden // heads
        key_heads = text.get("num_key_value_heads", heads)
        return cls(
            layers=text["num_hidden_layers"],
            hidden=hidden,
            inner=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            attention=2 * hidden * head * (heads + key_heads),
            **_vision_shape(model_config.get("vision_config") or {}),
        )

    @property
    def layer(self) -> int:
        """Parameters of a text layer, but for norms and biases."""
        return self.attention + 3 * self.hidden * self.inner

    @property
    def root(self) -> int:
        """Parameters of the output head, or of the embeddings that it is tied to.

        With what little FSDP2 shards beside it they are the largest unit.
        """
        return self.vocabulary * self.hidden

    def image_tokens(self, pixels: int) -> int:
        """Tokens of an image of so many pixels, at most."""
        return max(1, pixels // (self.patch * self.merge) ** 2)

    def image_bytes(self, tokens: int) -> int:
        """`pixel_values` of an image: patches x features x 4, in fp32."""
        return tokens * self.merge**2 * self.features * BYTES["float32"]


def _vision_shape(vision: Mapping[str, Any]) -> dict[str, int]:
    if not vision:
        return {}
    width = vision.get("embed_dim") or vision["hidden_size"]  # Qwen2-VL's name
    patch = vision.get("patch_size", 14)
    depth = vision.get("temporal_patch_size", 2)
    channels = vision.get("in_channels", 3)
    return {
        "blocks": vision["depth"],
        "width": width,
        "vision_inner": vision.get("intermediate_size")
        or int(width * vision.get("mlp_ratio", 4)),
        "patch": patch,
        "merge": vision.get("spatial_merge_size", 2),
        "features": channels * depth * patch**2,
    }


def count_parameters(path: str) -> int:
    """Parameters of a model, from its config.json; no weights are read or made.

    Parameters
    ----------
    path
        A folder, or a name on the hub.
    """
    config = AutoConfig.from_pretrained(path)
    vision = hasattr(config, "vision_config")
    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


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
    parallel = ModelAllocation.from_str(actor.backend, name="actor").parallel
    return parameters * each // parallel.world_size


def cache_bytes_per_token(model_config: Mapping[str, Any]) -> int:
    """Keys and values of a token in the generation server, bfloat16, bytes.

    Parameters
    ----------
    model_config
        What config.json says; of Qwen's families, in either of their layouts.
    """
    text = model_config.get("text_config", model_config)
    heads = text["num_attention_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    return (
        2 * text["num_hidden_layers"] * text.get("num_key_value_heads", heads) * head
    ) * _BF16


def server_memory(
    config: CPPOConfig, model_config: Mapping[str, Any], parameters: int
) -> dict[str, int]:
    """Weights, and keys and values, on each GPU of a generation server, in bfloat16.

    Of `sglang.max_total_tokens`, or as many as `sglang.max_running_requests` of the
    longest context come to; of a single token where nothing limits them.
    """
    sglang = config.sglang
    ranks = ModelAllocation.from_str(config.rollout.backend, name="rollout").parallel
    gpus = ranks.tp_size * ranks.pp_size
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
    total = 0 if config.actor.use_lora else saved * _CHECKPOINT * parameters
    if config.recover.on:
        stored = BYTES[config.actor.optimizer_dtype]
        size = parameters * stored * (1 if config.actor.use_lora else 3)
        total += size * (config.recover.keep + 1)
    return total
