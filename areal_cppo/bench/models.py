"""What a train step is measured on: a model and a batch, at random, of a given size.

What costs time is how much there is, not what. The model is a Qwen2.5-VL at random
weights in a given shape; tokens and pixels are noise. An item of the batch is a group,
as AReaL's workflow returns it: `n` samples of one prompt and one image, padded to
`[n, S]`. Each sample has its own copy of the image, as the workflow makes them.

`small` is Qwen2.5-VL-3B scaled down so that the shares of its work carry over: the
output head is a tenth of the text model's multiply-adds, and an image patch costs a
fifth of those of a text token, attention included. Width was kept at the cost of depth,
because attention's share of the work grows as the width shrinks: within a response of
this benchmark it is a tenth of a layer's work, in the 3B model a fiftieth; over a whole
row of 4,096 tokens, which AReaL computes under sdpa, a third and a tenth. A ratio of
times measured here says, roughly, what to expect there; seconds and bytes do not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from areal.utils.data import concat_padded_tensors
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

from areal_cppo.bench.workload import SHAPES, Workload, check_model
from areal_cppo.core import PatchLayout, patchify
from areal_cppo.tasks import responses
from areal_cppo.tasks.tokenizer import build_processor

_LOGIT_STD = 1.5  # so that a token's distribution is neither flat nor settled


def model_config(name: str) -> Any:
    """The configuration of a named shape, or of a config.json (or its folder).

    Its special token ids are set to those of the tokenizer that comes with it.

    Raises
    ------
    UserError
        No such name or file, or not a Qwen2.5-VL.
    """
    check_model(name)
    if name in SHAPES:
        config = _shaped(*SHAPES[name])
    else:
        config = AutoConfig.from_pretrained(name)
    ids = {token: i for i, token in enumerate(responses.VOCABULARY)}
    config.image_token_id = ids[responses.IMAGE]
    config.video_token_id = ids[responses.VIDEO]
    config.vision_start_token_id = ids[responses.VISION_START]
    config.vision_end_token_id = ids[responses.VISION_END]
    text = config.text_config
    text.bos_token_id, text.eos_token_id = None, ids[responses.EOS]
    text.pad_token_id = 0
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


@contextmanager
def model_folder(name: str, seed: int) -> Iterator[tuple[Path, Any]]:
    """A temporary folder with a model of that shape, and its configuration."""
    config = model_config(name)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    with tempfile.TemporaryDirectory(prefix="areal-cppo-bench-") as folder:
        yield make_model_folder(Path(folder), config, dtype, seed), config


def make_batch(workload: Workload, config: Any, layout: PatchLayout) -> list[dict]:
    """The batch, an item a group.

    Parameters
    ----------
    workload
        How much of everything.
    config
        The model's: its vocabulary and the ids of its special tokens.
    layout
        Of its images.

    Returns
    -------
    list
        AReaL's trajectories: `input_ids`, `loss_mask`, `rewards`, ...; `logprobs` are
        zeros, to be filled with those of the policy itself.
    """
    generator = torch.Generator().manual_seed(workload.seed)
    special, vocabulary = len(responses.VOCABULARY), config.text_config.vocab_size

    def text(n: int) -> torch.Tensor:
        return torch.randint(special, vocabulary, (n,), generator=generator)

    lengths = iter(workload.response_lengths())
    items = []
    for positives in workload.positives():
        marks = [config.vision_start_token_id, config.vision_end_token_id]
        image = torch.full((workload.image_tokens,), config.image_token_id)
        prompt = torch.tensor(marks[:1] + image.tolist() + marks[1:])
        prompt = torch.cat([prompt, text(workload.prompt)])
        side = workload.image
        pixels = patchify([torch.randn(3, side, side, generator=generator)], layout)
        samples = [
            _sample(prompt, text(next(lengths)), pixels, float(i < positives), config)
            for i in range(workload.group)
        ]
        items.append(concat_padded_tensors(samples))
    return items


def _sample(prompt, response, pixels, reward: float, config) -> dict[str, Any]:
    """One response, `[1, S]`."""
    ids = torch.cat([prompt, response])
    is_response = torch.arange(len(ids)) >= len(prompt)
    side = int(len(pixels) ** 0.5)
    return {
        "input_ids": ids[None],
        "mm_token_type_ids": (ids == config.image_token_id).long()[None],
        "loss_mask": is_response.int()[None],
        "logprobs": torch.zeros(1, len(ids)),
        "versions": torch.where(is_response, 0, -1).int()[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.bool),
        "rewards": torch.tensor([reward]),
        "multi_modal_input": [
            {
                "pixel_values": pixels.clone(),
                "image_grid_thw": torch.tensor([[1, side, side]]),
            }
        ],
    }
