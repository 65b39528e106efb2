"""Models that CPPO trains, the layouts it trains them in, and what it mends in them.

AReaL's FSDP engine takes more than this. Refused is what it would take but where the
packing mask, the rotary positions or the views of this package have not been shown to
be right, so that a run is exact or does not start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from areal.api.alloc_mode import AllocationValidationError, ModelAllocation
from areal.engine.core.model import is_valid_vision_model
from transformers import PreTrainedConfig

from areal_cppo.errors import UserError

# Their patches are those of `areal_cppo.core.patchify`; tests/training compares each
# with plain transformers, through the real engine.
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
        `actor.backend`, checked by `check_layout`, and `actor.enable_tree_training`.

    Raises
    ------
    UserError
        A vision model of another family, or with tensor or context parallelism or tree
        training; with views also a model without images.
    """
    model_type = model_config.get("model_type", "")
    if model_type in VISION_MODELS:
        parallel = ModelAllocation.from_str(backend, name="actor").parallel
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


def check_layout(backend: str, attn_impl: str, *, uses_views: bool) -> None:
    """Refuse engines and parallel layouts in which a step has not been shown right.

    Parameters
    ----------
    backend
        `actor.backend`, as `fsdp:d4`.
    attn_impl
        `actor.attn_impl`.
    uses_views
        Without views tensor parallelism is AReaL's own affair.

    Raises
    ------
    ValueError
        In one line.
    """
    expected = "actor.backend: expected fsdp:d<number of ranks>"
    try:
        alloc = ModelAllocation.from_str(backend, name="actor")
    except (AllocationValidationError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{expected}, found {backend!r}: {reason}") from error
    if alloc.backend != "fsdp":
        raise ValueError(
            f"{expected}, found {backend!r}; CPPO runs on AReaL's FSDP engine only"
        )
    # AReaL's Ulysses is made for flash-attn: otherwise a text model would attend to its
    # own shard only, a Qwen-VL would meet flash-attention with our sdpa mask.
    if attn_impl != "flash_attention_2" and alloc.parallel.cp_size != 1:
        raise ValueError(
            f"{expected}, found {backend!r}: context parallelism (Ulysses), which "
            f"actor.attn_impl={attn_impl} lacks; set c1 (more of d instead)"
        )
    if not uses_views:
        return
    for letter, size, kind in (
        ("t", alloc.parallel.tp_size, "tensor parallelism"),
        ("c", alloc.parallel.cp_size, "context parallelism (Ulysses)"),
    ):
        if size != 1:
            raise ValueError(
                f"{expected}, found {backend!r}: {kind}, in which views were never "
                f"tested; set {letter}1 (more of d instead)"
            )
