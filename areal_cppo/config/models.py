"""Models that CPPO trains: which, and how large they are by their config.json.

AReaL's FSDP engine takes more than these. Refused is what it would take but where the
packing mask, the rotary positions or the views of this package have not been shown to
be right, so that a run is exact or does not start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from areal.engine.core.model import is_valid_vision_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from areal_cppo.config.engines import allocation
from areal_cppo.errors import UserError

_NAMING_CODE = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# Their patches are those of `areal_cppo.core.patchify`; tests/step compares each with
# plain transformers, through the real engine.
VISION_MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def read_model_config(path: str) -> dict[str, Any]:
    """A model's config.json, from a folder or from the hub; no code of it is run.

    Raises
    ------
    UserError
        There is none, or it isn't JSON.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(path)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"actor.path: expected a folder or a hub name with a readable config.json, "
            f"found {path}: {reason}"
        ) from error
    return config


def check_no_code(path: str) -> None:
    """Refuse a model, in a folder or in the hub's cache, that brings code of its own.

    AReaL would run it, in the trainer and wherever it reads tokenizer or processor.

    Raises
    ------
    UserError
        One of its files names such code (`auto_map`).
    """
    for name in _NAMING_CODE:
        file = cached_file(
            path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is not None and "auto_map" in json.loads(Path(file).read_text("utf-8")):
            raise UserError(
                f"actor.path: expected a model without code of its own, found auto_map "
                f"in {path}/{name}, which AReaL would run; take it out, as the model's "
                "class is one of transformers"
            )


def check_supported(
    model_config: Mapping[str, Any],
    *,
    uses_views: bool,
    backend: str = "fsdp:d1",
    tree_training: bool = False,
) -> None:
    """Refuse models that would be trained wrongly.

    Parameters
    ----------
    model_config
        What config.json says.
    uses_views
        Without views a model that sees no images will do.
    backend, tree_training
        `actor.backend`, checked by `CPPOActorConfig.check_layout`, and
        `actor.enable_tree_training`.

    Raises
    ------
    UserError
        A vision model of another family, or with tensor or context parallelism or tree
        training; with views also a model without images.
    """
    model_type = model_config.get("model_type", "")
    if model_type in VISION_MODELS:
        parallel = allocation(backend).parallel
        if parallel.tp_size * parallel.cp_size != 1:
            raise UserError(
                "actor.backend: expected fsdp:d<number of ranks> for a vision model, "
                f"found {backend!r}, in which its packed rows were never tested; set "
                "t1 and c1 (more of d instead)"
            )
        if tree_training:
            raise UserError(
                "actor.enable_tree_training: expected false for a vision model, found "
                "true; AReaL's tree packing carries no images, and prompts are shared "
                "without it (actor.speed.share_prompts)"
            )
        return
    supported = ", ".join(VISION_MODELS)
    if is_valid_vision_model(model_type) or "vision_config" in model_config:
        raise UserError(
            f"actor.path: expected a vision model of type {supported}, found "
            f"{model_type!r}, whose packed rows and image patches were never tested; "
            "use one of these"
        )
    if uses_views:
        raise UserError(
            f"actor.path: expected a vision model of type {supported}, found "
            f"{model_type!r}, without images to perturb; use one of these, or "
            "actor.objective=grpo"
        )


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a number, by dtype


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
    ) * BYTES["bfloat16"]
