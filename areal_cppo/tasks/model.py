"""A Qwen2.5-VL of 948 thousand parameters: the stock class, in a tiny size.

Prompts whose pictures have the same number of image tokens are of one length, so that a
batch of such ones needs no padding; others make batches of their own. Most tasks have
one prompt, the default everywhere here. The vision tower and the language model are run
as they are; only what `forward` of transformers does around them is left out. Only the
model may be on a GPU: what it is given and what it says are on the CPU.

Letters: `B` responses, `T` response tokens, `V` vocabulary, `P` patches of one picture,
`I` its image tokens (a quarter).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from areal_cppo.patches.transformers import correct_image_positions
from areal_cppo.tasks import responses
from areal_cppo.tasks.pictures import MERGE, PATCH
from areal_cppo.tasks.pixels import TEMPORAL, prompt_grids
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import VOCABULARY
from areal_cppo.tasks.tokenizer import IDS, MODEL_MAX_LENGTH, prompt_ids

correct_image_positions()  # so that this process sees pictures as the server does

_VISION_DEPTH = 2
_INITIAL_STD = 0.04  # the usual .02 makes so narrow a model slow to start
_USUAL_STD = 0.02

TinyModel = Qwen2_5_VLForConditionalGeneration


def tiny_config(
    tokens: Sequence[str] = VOCABULARY,
    max_length: int = MODEL_MAX_LENGTH,
    scale: int = 1,
) -> Qwen2_5_VLConfig:
    """The configuration for a vocabulary, that of most tasks if not said; it has the
    control tokens of `responses`. Layers, heads and widths are `scale` times ours."""
    ids = {token: i for i, token in enumerate(tokens)}
    std = max(_INITIAL_STD / scale**0.5, _USUAL_STD)
    vision = dict(
        depth=_VISION_DEPTH * scale,
        hidden_size=96 * scale,
        intermediate_size=192 * scale,
        num_heads=4 * scale,
        in_channels=3,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        window_size=112,
        fullatt_block_indexes=list(range(_VISION_DEPTH * scale)),
        out_hidden_size=128 * scale,
        initializer_range=std,
    )
    text = dict(
        vocab_size=len(ids),
        hidden_size=128 * scale,
        intermediate_size=256 * scale,
        num_hidden_layers=3 * scale,
        num_attention_heads=4 * scale,
        num_key_value_heads=2 * scale,
        max_position_embeddings=max_length,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        initializer_range=std,
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


def embed_pictures(
    model: TinyModel, pixel_values: torch.Tensor, prompts: Sequence[TaskPrompt]
) -> tuple[torch.Tensor, ...]:
    """Image tokens `[I, hidden]` of each prompt's picture, with gradient.

    Parameters
    ----------
    pixel_values
        float32 `[sum of P, 1176]`.
    """
    grids = prompt_grids(prompts).to(model.device)
    pixel_values = pixel_values.to(model.device)
    features = model.model.visual(pixel_values, grid_thw=grids).pooler_output
    return features.split([prompt.n_image_tokens for prompt in prompts])


def embed_images(model: TinyModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Image tokens of pictures `[B * 36, 1176]`: `[B, 9, hidden]`, with gradient."""
    prompts = [TaskPrompt()] * (len(pixel_values) // TaskPrompt().n_patches)
    return torch.stack(embed_pictures(model, pixel_values, prompts))


def rotary_positions(
    model: TinyModel, length: int, prompts: Sequence[TaskPrompt]
) -> torch.Tensor:
    """Rotary positions of prompts and responses: int64 `[3, B, length]`, on the model's
    device."""
    by_prompt = {}
    for prompt in set(prompts):
        ids = prompt_ids(prompt)
        row = torch.zeros(1, length, dtype=torch.long)
        row[0, : len(ids)] = torch.tensor(ids)
        kinds = (row == IDS[responses.IMAGE]).int()
        grid = prompt_grids([prompt])
        by_prompt[prompt] = model.model.get_rope_index(row, kinds, grid)[0]
    return torch.cat([by_prompt[prompt] for prompt in prompts], dim=1).to(model.device)


def embed_ids(model: TinyModel, ids: torch.Tensor) -> torch.Tensor:
    """Embeddings of tokens int64 `[...]`: `[..., hidden]`, on the model's device."""
    return model.get_input_embeddings()(ids.to(model.device))


def embed_prompts(
    model: TinyModel, images: torch.Tensor, prompts: Sequence[TaskPrompt]
) -> torch.Tensor:
    """Prompts around image tokens `[B, I, hidden]`: `[B, prompt, hidden]`."""
    ids = torch.tensor([prompt_ids(prompt) for prompt in prompts])
    embedded = embed_ids(model, ids)
    return torch.cat(
        [embedded[:, :1], images, embedded[:, 1 + images.shape[1] :]], dim=1
    )


def batches(prompts: Sequence[TaskPrompt]) -> list[torch.Tensor]:
    """Which prompts are of one length: int64 indices, the shortest prompts first."""
    sizes = torch.tensor([prompt.n_image_tokens for prompt in prompts])
    return [(sizes == size).nonzero().squeeze(1) for size in sizes.unique()]


def in_order(parts: Sequence[torch.Tensor], own: Sequence[torch.Tensor]):
    """Rows of `batches`, `own`, as the prompts were: `[B, ...]`."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts))[torch.cat(list(own)).argsort()]


def logits_from_images(
    model: TinyModel,
    images: Sequence[torch.Tensor],
    response_ids: torch.Tensor,
    prompts: Sequence[TaskPrompt] | None = None,
) -> torch.Tensor:
    """Logits of each response token, given image tokens made before.

    Parameters
    ----------
    images
        B times `[I, hidden]`, repeated where responses share a picture.
    response_ids
        int64 `[B, T]`, without the prompt.
    prompts
        B; by default that of most tasks.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    prompts = prompts or [TaskPrompt()] * len(images)
    groups = batches(prompts)
    parts = []
    for group in groups:
        asked = [prompts[i] for i in group]
        seen = torch.stack([images[i] for i in group])
        before = embed_prompts(model, seen, asked)
        said = embed_ids(model, response_ids[group, :-1])
        inputs = torch.cat([before, said], dim=1)
        hidden = model.model.language_model(
            inputs_embeds=inputs,
            position_ids=rotary_positions(model, inputs.shape[1], asked),
            use_cache=False,
        ).last_hidden_state
        parts.append(model.lm_head(hidden[:, before.shape[1] - 1 :]).cpu())
    return in_order(parts, groups)


def response_logits(
    model: TinyModel,
    pixel_values: torch.Tensor,
    response_ids: torch.Tensor,
    prompts: Sequence[TaskPrompt] | None = None,
) -> torch.Tensor:
    """Logits of each response token, given its picture.

    Parameters
    ----------
    pixel_values
        float32 `[sum of P, 1176]`, one picture per response.
    response_ids
        int64 `[B, T]`, without the prompt.
    prompts
        B; by default that of most tasks.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    prompts = prompts or [TaskPrompt()] * len(response_ids)
    images = embed_pictures(model, pixel_values, prompts)
    return logits_from_images(model, images, response_ids, prompts)
