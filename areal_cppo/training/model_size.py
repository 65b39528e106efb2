"""How large a model is, from its config.json alone, and what that means in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from areal.api.alloc_mode import ModelAllocation
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from areal_cppo.training.config import CPPOConfig

_BF16 = 2
_BYTES = {"float32": 4, "bfloat16": 2}
_CHECKPOINT = 2  # bytes a parameter: saved in the dtype computed in


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
    stored = _BYTES[actor.optimizer_dtype]
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
        stored = _BYTES[config.actor.optimizer_dtype]
        size = parameters * stored * (1 if config.actor.use_lora else 3)
        total += size * (config.recover.keep + 1)
    return total
