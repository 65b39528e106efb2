"""A Qwen2.5-VL of 948 thousand parameters: the stock class, in a tiny size.

All problems of all tasks share one prompt, so a batch needs no padding, and its rotary
positions are those of one sequence. The vision tower and the language model are run as
they are; only what `forward` of transformers does around them is left out.

Letters: `B` responses, `T` response tokens, `V` vocabulary (29), `P` patches of one
picture (36).
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from areal_cppo.patches.transformers import correct_image_positions
from areal_cppo.tasks import responses
from areal_cppo.tasks.pixels import MERGE, N_PATCHES, PATCH, TEMPORAL, image_grid
from areal_cppo.tasks.tokenizer import IDS, MODEL_MAX_LENGTH, PROMPT_IDS

correct_image_positions()  # so that this process sees pictures as the server does

_VISION_DEPTH = 2
_INITIAL_STD = 0.04  # the usual .02 makes so narrow a model slow to start

TinyModel = Qwen2_5_VLForConditionalGeneration


def tiny_config(
    ids: dict[str, int] = IDS, max_length: int = MODEL_MAX_LENGTH
) -> Qwen2_5_VLConfig:
    """The configuration for a vocabulary, that of `tokenizer.build_tokenizer` if not
    said; it has the control tokens of `responses`."""
    vision = dict(
        depth=_VISION_DEPTH,
        hidden_size=96,
        intermediate_size=192,
        num_heads=4,
        in_channels=3,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        window_size=112,
        fullatt_block_indexes=list(range(_VISION_DEPTH)),
        out_hidden_size=128,
        initializer_range=_INITIAL_STD,
    )
    text = dict(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        initializer_range=_INITIAL_STD,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ids[responses.EOS],
        pad_token_id=ids[responses.PAD],
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[responses.IMAGE],
        video_token_id=ids[responses.VIDEO],
        vision_start_token_id=ids[responses.VISION_START],
        vision_end_token_id=ids[responses.VISION_END],
        tie_word_embeddings=False,
    )


def build_model(seed: int, config: Qwen2_5_VLConfig | None = None) -> TinyModel:
    """A model with random weights from `seed`, float32, on the CPU.

    The global random state of torch is left as it was.
    """
    config = config or tiny_config()
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyModel(config).to(torch.float32)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model


def load_model(folder: str | Path) -> TinyModel:
    """Load a model's folder for use: float32, in evaluation mode."""
    return TinyModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


def embed_images(model: TinyModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Image tokens of pictures `[B * P, 1176]`: `[B, 9, hidden]`, with gradient."""
    grid = image_grid(pixel_values.shape[0] // N_PATCHES)
    features = model.model.visual(pixel_values, grid_thw=grid).pooler_output
    return features.reshape(grid.shape[0], responses.N_IMAGE_TOKENS, -1)


def rotary_positions(model: TinyModel, length: int, batch: int) -> torch.Tensor:
    """Rotary positions of prompt and response: int64 `[3, batch, length]`."""
    row = torch.zeros(1, length, dtype=torch.long)
    row[0, : len(PROMPT_IDS)] = torch.tensor(PROMPT_IDS)
    kinds = (row == IDS[responses.IMAGE]).int()
    positions, _ = model.model.get_rope_index(row, kinds, image_grid(1))
    return positions.expand(3, batch, length)


def embed_prompt(model: TinyModel, images: torch.Tensor) -> torch.Tensor:
    """The prompt around image tokens `[B, 9, hidden]`: `[B, prompt, hidden]`."""
    embed = model.get_input_embeddings()
    prompt = embed(torch.tensor(PROMPT_IDS)).expand(images.shape[0], -1, -1)
    return torch.cat([prompt[:, :1], images, prompt[:, 1 + images.shape[1] :]], dim=1)


def logits_from_images(
    model: TinyModel,
    images: torch.Tensor,
    response_ids: torch.Tensor,
) -> torch.Tensor:
    """Logits of each response token, given image tokens made before.

    Parameters
    ----------
    images
        `[B, 9, hidden]` of `embed_images`, repeated where responses share a picture.
    response_ids
        int64 `[B, T]`, without the prompt.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    prompt = embed_prompt(model, images)
    said = model.get_input_embeddings()(response_ids[:, :-1])
    inputs = torch.cat([prompt, said], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=inputs,
        position_ids=rotary_positions(model, inputs.shape[1], inputs.shape[0]),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[:, len(PROMPT_IDS) - 1 :])


def response_logits(
    model: TinyModel,
    pixel_values: torch.Tensor,
    response_ids: torch.Tensor,
) -> torch.Tensor:
    """Logits of each response token, given its picture.

    Parameters
    ----------
    pixel_values
        float32 `[B * P, 1176]`, one picture per response.
    response_ids
        int64 `[B, T]`, without the prompt.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    return logits_from_images(model, embed_images(model, pixel_values), response_ids)
