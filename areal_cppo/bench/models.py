"""Models to measure: Qwen2.5-VL at random weights, in a given shape.

`small` is Qwen2.5-VL-3B scaled down so that the shares of its work carry over: the
output head is a tenth of the text model's multiply-adds, and an image patch costs a
fifth of those of a text token, attention included. Width was kept at the cost of depth,
because attention's share of the work grows as the width shrinks: within a response of
this benchmark it is a tenth of a layer's work, in the 3B model a fiftieth; over a whole
row of 4,096 tokens, which AReaL computes under sdpa, a third and a tenth. A ratio of
times measured here says, roughly, what to expect there; seconds and bytes do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

from areal_cppo.errors import UserError
from areal_cppo.tasks.tokenizer import build_processor
from areal_cppo.tasks.triangles import task

# text: width, feed-forward width, layers, heads, of keys, vocabulary;
# vision: width, feed-forward width, layers, heads; its layers that see all of an image
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[int]]] = {
    "tiny": ((64, 128, 2, 4, 2, 256), (32, 64, 2, 2), [1]),
    "small": ((384, 2064, 2, 6, 1, 1536), (160, 428, 2, 4), [1]),
    "qwen2.5-vl-3b": (
        (2048, 11008, 36, 16, 2, 151936),
        (1280, 3420, 32, 16),
        [7, 15, 23, 31],
    ),
}
_LOGIT_STD = 1.5  # so that a token's distribution is neither flat nor settled


def model_config(name: str) -> Any:
    """The configuration of a named shape, or of a config.json (or its folder).

    Its special token ids are set to those of the tokenizer that comes with it.

    Raises
    ------
    UserError
        No such name or file, or not a Qwen2.5-VL.
    """
    if name in SHAPES:
        config = _shaped(*SHAPES[name])
    else:
        expected = f"--model: expected one of {', '.join(SHAPES)}, or a config.json"
        if not Path(name).exists():
            raise UserError(f"{expected}, found {name!r}; give the path of one")
        try:
            config = AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{expected}, found {name!r}: {reason}") from error
        if config.model_type != "qwen2_5_vl":
            raise UserError(
                f"{expected} of a qwen2_5_vl, found {config.model_type!r}; give another"
            )
    ids = {token: i for i, token in enumerate(task.VOCABULARY)}
    config.image_token_id = ids[task.IMAGE]
    config.video_token_id = ids[task.VIDEO]
    config.vision_start_token_id = ids[task.VISION_START]
    config.vision_end_token_id = ids[task.VISION_END]
    text = config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = None, ids[task.EOS], 0
    std = _LOGIT_STD / text.hidden_size**0.5
    text.initializer_range = config.vision_config.initializer_range = std
    return config


def _shaped(text, vision, whole_image_layers) -> Qwen2_5_VLConfig:
    width, inner, layers, heads, key_heads, vocabulary = text
    section = width // heads // 16  # halves of a head's size: 2 to 3 to 3
    vision_width, vision_inner, vision_layers, vision_heads = vision
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [2 * section, 3 * section, 3 * section],
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": vision_inner,
            "depth": vision_layers,
            "num_heads": vision_heads,
            "fullatt_block_indexes": whole_image_layers,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        tie_word_embeddings=True,
    )


def make_model_folder(folder: Path, config: Any, dtype: torch.dtype, seed: int) -> Path:
    """Save a model with random weights, and a processor, where AReaL can load them.

    AReaL starts no vision model from scratch. The weights are drawn on the GPU if there
    is one: of 3.8 billion parameters that takes seconds, not minutes.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder
