"""AReaL's padded batch as rows of tokens are cut from it.

Letters: `B` responses of a padded batch, `S` its padded length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from areal.engine.core.model import is_qwen3_vl_model
from areal.utils.data import tensor_container_to
from transformers import PreTrainedConfig

from areal_cppo.config.experiment import CPPOActorConfig
from areal_cppo.core import PatchLayout
from areal_cppo.step.packing import IMAGES
from areal_cppo.step.prompts import image_sets
from areal_cppo.step.rows import Batch, RowStyle

_PAGE = 256  # tokens; on a GPU rows are padded to it, as AReaL does


def prepare_batch(
    input_: dict[str, Any],
    sets: list[int | None] | None,
    positions: Callable[..., torch.Tensor],
    device: torch.device,
) -> tuple[dict[str, Any], Batch]:
    """Bring a batch to the model's device, all but its images, and place its tokens.

    Parameters
    ----------
    input_
        AReaL's padded batch.
    sets
        Per response the first one with the same images; `None`: to be found out.
    positions
        The model's `compute_3d_position_ids`.
    device
        Of the model.

    Returns
    -------
    tuple
        What the loss is computed from, and what rows are cut from.
    """
    images = input_.get(IMAGES) or [{}] * len(input_["input_ids"])
    data = {key: value for key, value in input_.items() if key != IMAGES}
    data = tensor_container_to(data, device)
    data["input_ids"] = data["input_ids"].long()
    grids = [item["image_grid_thw"] for item in images if "image_grid_thw" in item]
    # Without any grid the model could not compute positions.
    grid = torch.cat(grids) if grids else torch.zeros(0, 3, dtype=torch.long)
    batch = Batch(
        input_ids=data["input_ids"],
        image_tokens=data["mm_token_type_ids"],
        position_ids=positions(
            input_ids=data["input_ids"],
            image_grid_thw=grid.to(device),
            video_grid_thw=None,
            attention_mask=data["attention_mask"],
            mm_token_type_ids=data["mm_token_type_ids"],
            inputs_embeds=None,
            past_key_values=None,
        ),
        lengths=data["attention_mask"].sum(-1).tolist(),
        images=images,
        sets=image_sets(images) if sets is None else sets,
    )
    return data, batch


def row_style(
    config: CPPOActorConfig,
    model_config: PreTrainedConfig,
    layout: PatchLayout,
    device: torch.device,
) -> RowStyle:
    """What the rows of a model look like under a configuration."""
    page = _PAGE if device.type == "cuda" else 1
    if config.pad_to_maximum:
        page = config.mb_spec.max_tokens_per_mb or page
    mask = dict(full_attention=None, sliding_attention=None)
    if is_qwen3_vl_model(model_config.model_type):
        mask = None
    return RowStyle(
        layout,
        model_config.image_token_id,
        config.speed.share_images,
        kernel=config.attn_impl,
        page=page,
        extra={"attention_mask": mask, "use_cache": False},
    )
