"""The shipped configurations, and the real models' config.json. Not a test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
RECIPES = [name for name in NAMES if name.startswith("qwen")]

FULL = "qwen2_5_vl-3b_geometry3k.yaml"
LORA = "qwen2_5_vl-3b_geometry3k_lora_24gb.yaml"
PARAMETERS = {"3B": 3_754_622_976, "7B": 8_292_166_656}

# What the checkpoints' own config.json say of their size.
SIZES = {
    "3B": dict(
        hidden_size=2048,
        intermediate_size=11008,
        max_window_layers=70,
        num_attention_heads=16,
        num_hidden_layers=36,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        vocab_size=151936,
    ),
    "7B": dict(
        hidden_size=3584,
        intermediate_size=18944,
        max_window_layers=28,
        num_attention_heads=28,
        num_hidden_layers=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        vocab_size=152064,
    ),
}


def size_of(name: str) -> str:
    """Of the model of a recipe."""
    return "7B" if "-7b_" in name else "3B"


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """`a.b.0.c` -> value, of nested dicts and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    found = {}
    for key, inner in items:
        found |= flat(inner, f"{path}.{key}" if path else str(key))
    return found


def published_config(size: str) -> dict[str, Any]:
    """The config.json of Qwen2.5-VL, in the layout in which it is published."""
    text = SIZES[size]
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        **text,
    }
