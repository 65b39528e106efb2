"""A Qwen2.5-VL of 948 thousand parameters: the stock class, in a tiny size."""

from __future__ import annotations

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from areal_cppo.tasks import vocabulary
from areal_cppo.tasks.pixels import MERGE, PATCH, TEMPORAL
from areal_cppo.tasks.tokenizer import MODEL_MAX_LENGTH

_VISION_DEPTH = 2
_INITIAL_STD = 0.04  # the usual .02 makes so narrow a model slow to start


def tiny_config() -> Qwen2_5_VLConfig:
    """The configuration; its token ids are those of `tokenizer.build_tokenizer`."""
    ids = {token: i for i, token in enumerate(vocabulary.VOCABULARY)}
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
        vocab_size=len(vocabulary.VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MODEL_MAX_LENGTH,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        initializer_range=_INITIAL_STD,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ids[vocabulary.EOS],
        pad_token_id=ids[vocabulary.PAD],
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[vocabulary.IMAGE],
        video_token_id=ids[vocabulary.VIDEO],
        vision_start_token_id=ids[vocabulary.VISION_START],
        vision_end_token_id=ids[vocabulary.VISION_END],
        tie_word_embeddings=False,
    )


def build_model(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights from `seed`, float32, on the CPU.

    The global random state of torch is left as it was.
    """
    config = tiny_config()
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model
