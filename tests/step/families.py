"""The supported model families in a tiny size, as folders, and batches for them.

Not a test itself. Each family is the stock class and the stock processor with random
weights, and what sets the family apart is on: windows in Qwen2.5-VL's vision tower that
cut the test's images, DeepStack and interleaved rotary sections in Qwen3-VL, its patch
size, tied embeddings where the small published checkpoints tie them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from areal.api.io_struct import SaveLoadMeta
from peft import PeftModel
from torch.distributed.tensor import distribute_tensor
from transformers import (
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.auto.modeling_auto import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
    Qwen2VLVideoProcessor,
)

from areal_cppo.core import PatchLayout
from areal_cppo.step.actor import CPPOActor
from areal_cppo.tasks import responses
from areal_cppo.tasks.tokenizer import CHAT_TEMPLATE, build_tokenizer
from tests.step import harness, naive

HIDDEN = 64
_MERGE, _TEMPORAL = 2, 2  # of every published checkpoint


@dataclass(frozen=True)
class Family:
    """What sets one family apart from the others."""

    config: type[PreTrainedConfig]
    processor: type
    video_processor: type
    layout: PatchLayout
    vision: dict[str, Any]  # keys of the vision config that only this family has
    text: dict[str, Any]
    mrope: dict[str, Any]
    tied: bool  # the output embedding is the input embedding


FAMILIES = {
    "qwen2_vl": Family(
        Qwen2VLConfig,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
        PatchLayout(),
        # Here hidden_size is the width of what comes out of the tower.
        vision=dict(embed_dim=32, hidden_size=HIDDEN, mlp_ratio=2),
        text={},
        mrope={"mrope_section": [2, 3, 3]},
        tied=True,
    ),
    "qwen2_5_vl": Family(
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
        PatchLayout(),
        vision=dict(
            hidden_size=32,
            intermediate_size=64,
            out_hidden_size=HIDDEN,
            window_size=56,  # 2 x 2 merged tokens: smaller than some images here
            fullatt_block_indexes=[1],
            tokens_per_second=4,
        ),
        text={},
        mrope={"mrope_section": [2, 3, 3]},
        tied=False,
    ),
    "qwen3_vl": Family(
        Qwen3VLConfig,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        PatchLayout(patch_size=16, image_mean=(0.5,) * 3, image_std=(0.5,) * 3),
        vision=dict(
            hidden_size=32,
            intermediate_size=64,
            out_hidden_size=HIDDEN,
            num_position_embeddings=64,  # 8 x 8, interpolated to an image's grid
            deepstack_visual_indexes=[0, 1],
        ),
        text=dict(head_dim=16),
        mrope={"mrope_section": [4, 2, 2], "mrope_interleaved": True},
        tied=True,
    ),
}


def tiny_config(name: str) -> PreTrainedConfig:
    """Configuration of a family; its token ids are those of the triangle vocabulary."""
    family = FAMILIES[name]
    ids = {token: i for i, token in enumerate(responses.VOCABULARY)}
    vision = dict(
        depth=2,
        num_heads=2,
        in_channels=3,
        patch_size=family.layout.patch_size,
        spatial_merge_size=_MERGE,
        temporal_patch_size=_TEMPORAL,
    )
    text = dict(
        vocab_size=len(responses.VOCABULARY),
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            **family.mrope,
        },
        tie_word_embeddings=family.tied,
        bos_token_id=None,
        eos_token_id=ids[responses.EOS],
        pad_token_id=ids[responses.PAD],
    )
    return family.config(
        text_config=text | family.text,
        vision_config=vision | family.vision,
        image_token_id=ids[responses.IMAGE],
        video_token_id=ids[responses.VIDEO],
        vision_start_token_id=ids[responses.VISION_START],
        vision_end_token_id=ids[responses.VISION_END],
        tie_word_embeddings=family.tied,
    )


def build_processor(name: str):
    """The family's stock processor around the triangle task's tokenizer."""
    family = FAMILIES[name]
    layout = family.layout
    settings = dict(
        patch_size=layout.patch_size,
        merge_size=layout.merge_size,
        temporal_patch_size=layout.temporal_patch_size,
        image_mean=list(layout.image_mean),
        image_std=list(layout.image_std),
    )
    return family.processor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=build_tokenizer(),
        video_processor=family.video_processor(**settings),
        chat_template=CHAT_TEMPLATE,
    )


def make_folder(name: str, folder: Path) -> Path:
    """A random tiny model of the family, saved with its processor.

    Its matrices are large enough for attention, and so for a wrong mask, to matter.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(tiny_config(name))
        model = model.to(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
    model.save_pretrained(folder)
    build_processor(name).save_pretrained(folder)
    return folder


def lora_actor(folder: Path, targets: list[str], **settings: Any) -> CPPOActor:
    """A LoRA actor whose adapters do something.

    The second factors start at zero, where the first ones get no gradient; here they
    are drawn at random, the same on all ranks.
    """
    config = harness.actor_config(
        folder,
        use_lora=True,
        lora_rank=4,
        lora_alpha=8,
        target_modules=targets,
        **settings,
    )
    actor = harness.make_actor(config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in actor.model.named_parameters():
        if "lora_B" in name:
            drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
            mesh, placements = parameter.device_mesh, parameter.placements
            parameter.data.copy_(distribute_tensor(drawn, mesh, placements))
    return actor


def save(actor: CPPOActor, folder: Path) -> Path:
    """Write the actor's weights, or its adapters; all ranks call it."""
    actor.save(
        SaveLoadMeta(
            path=str(folder),
            weight_format="hf",
            with_optim=False,
            tokenizer=actor.tokenizer,
            processor=actor.processor,
            base_model_path=actor.config.path,
        )
    )
    return folder


def with_adapters(folder: Path, adapters: Path) -> PeftModel:
    """The plain model with the adapters that `save` wrote, no AReaL in it."""
    return PeftModel.from_pretrained(naive.load(folder), adapters, is_trainable=True)


def layer_runs(actor: CPPOActor, work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and how often the language model's first layer ran."""
    model = actor.model.get_base_model() if actor.config.use_lora else actor.model
    runs: list[int] = []
    norm = model.model.language_model.layers[0].input_layernorm
    handle = norm.register_forward_pre_hook(lambda *_: runs.append(1))
    result = work()
    handle.remove()
    return result, len(runs)


def grouped_batch(name: str) -> list[dict[str, Any]]:
    """Groups that share a prompt or an image; six responses are gated and have one."""
    return harness.grouped_batch(FAMILIES[name].layout)


def mixed_batch(name: str) -> list[dict[str, Any]]:
    """Six responses: up to three images each, of other sizes; the advantage
    of the second and the fifth is not positive, and the sixth is text only."""
    layout = FAMILIES[name].layout
    return [
        harness.trajectory(1, 12, 1.0, (4, 4), (6, 4), (2, 2), layout=layout),
        harness.trajectory(2, 20, -1.0, (4, 6), n_prompt=9, layout=layout),
        harness.trajectory(3, 7, 1.0, (8, 4), (4, 8), layout=layout),
        harness.trajectory(4, 16, 1.0, (2, 4), n_prompt=5, layout=layout),
        harness.trajectory(5, 3, -1.0, (4, 4), (2, 6), n_prompt=1, layout=layout),
        harness.text_only(harness.trajectory(6, 10, 1.0, n_prompt=4)),
    ]
