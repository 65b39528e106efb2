"""What `memory` says that layers keep, counted; shapes of models in either layout of
config.json.

On the CPU, with flash-attention's kernel stood in for.
"""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AttentionInterface,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from areal_cppo.bench.counting import Counter
from areal_cppo.config import memory
from areal_cppo.config.models import ModelShape
from areal_cppo.core import PatchLayout

FAMILIES = {
    "qwen2_vl": (Qwen2VLConfig, qwen2_vl, "Qwen2VL"),
    "qwen2_5_vl": (Qwen2_5_VLConfig, qwen2_5_vl, "Qwen2_5_VL"),
    "qwen3_vl": (Qwen3VLConfig, qwen3_vl, "Qwen3VL"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_all_families(family):
    """Against transformers' own modules, text nested in config.json or flat."""
    kind, modules, prefix = FAMILIES[family]
    config = kind()
    nested = config.to_dict()
    shape = ModelShape.from_config(nested)
    flat = {**nested.pop("text_config"), "vision_config": nested["vision_config"]}
    assert ModelShape.from_config(flat) == shape
    text, vision = config.text_config, config.vision_config
    layer = getattr(modules, f"{prefix}DecoderLayer", None)
    layer = layer or getattr(modules, f"{prefix}TextDecoderLayer")
    with torch.device("meta"):
        model = getattr(modules, f"{prefix}ForConditionalGeneration")(config)
        parameters = sum(p.numel() for p in layer(text, 0).parameters())
    assert shape.layer == pytest.approx(parameters, rel=1e-3)
    assert shape.root == model.lm_head.weight.numel()
    block = model.model.visual.blocks[0]
    assert shape.blocks == len(model.model.visual.blocks)
    assert shape.width == block.attn.proj.weight.shape[0]
    up = block.mlp.up_proj if family == "qwen2_5_vl" else next(block.mlp.children())
    assert shape.vision_inner == up.weight.shape[0]
    layout = PatchLayout(vision.patch_size, vision.temporal_patch_size)
    assert shape.features == layout.patch_features
    assert shape.features == model.model.visual.patch_embed.proj.weight[0].numel()


class _Flash(torch.autograd.Function):
    """Keeps what flash-attention keeps, computes nothing."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = torch.zeros_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.zeros_like(x) for x in ctx.saved_tensors[:3])


def _flash(module, query, key, value, attention_mask, **_):
    parts = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return _Flash.apply(*parts).unsqueeze(0), None


AttentionInterface.register("flash_that_computes_nothing", _flash)


def peak_of(layer: torch.nn.Module, x: torch.Tensor, **inputs) -> int:
    """Bytes live at most in a forward and backward pass, but for input and weights
    and these's gradients."""
    x.requires_grad_()
    counter = Counter([*layer.parameters(), x])
    before = counter.current
    with counter:
        y = layer(x, **inputs)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.backward(y, torch.ones_like(y))
    weights = sum(p.numel() * p.element_size() for p in layer.parameters())
    return counter.peak - before - weights


SMALL = {
    "text_config": {
        "hidden_size": 256,
        "intermediate_size": 1376,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "vocab_size": 64,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [4, 6, 6],
        },
    },
    "vision_config": {
        "hidden_size": 160,
        "intermediate_size": 428,
        "depth": 1,
        "num_heads": 4,
        "out_hidden_size": 256,
    },
}


@pytest.fixture
def small(monkeypatch):
    """A configuration whose layers attend as flash-attention does."""
    monkeypatch.setattr(qwen2_5_vl, "is_flash_attention_requested", lambda _: True)
    config = Qwen2_5_VLConfig(**SMALL)
    for part in (config.text_config, config.vision_config):
        part._attn_implementation = "flash_that_computes_nothing"
    return config


def test_a_text_layer_counted(small):
    layer = qwen2_5_vl.Qwen2_5_VLDecoderLayer(small.text_config, 0).bfloat16()
    rotary = torch.zeros(3, 1, 1024, 32).bfloat16()
    x = torch.zeros(1, 1024, 256).bfloat16()
    counted = peak_of(
        layer, x, position_embeddings=(rotary, rotary), attention_mask=None
    )
    expected = memory.text_layer(ModelShape.from_config(small.to_dict()), 1024, 2)
    assert 0.9 < counted / expected < 1.05


def test_a_vision_block_and_the_merger_counted(small):
    shape = ModelShape.from_config(small.to_dict())
    block = qwen2_5_vl.Qwen2_5_VLVisionBlock(small.vision_config).bfloat16()
    rotary = torch.zeros(1024, 40)
    counted = peak_of(
        block,
        torch.zeros(1024, 160).bfloat16(),
        cu_seqlens=torch.tensor([0, 1024], dtype=torch.int32),
        position_embeddings=(rotary, rotary),
    )
    assert 0.9 < counted / memory.vision_layer(shape, 1024, 2) < 1.05
    merger = qwen2_5_vl.Qwen2_5_VLPatchMerger(256, 160).bfloat16()
    x = torch.zeros(1024, 160).bfloat16().requires_grad_()
    counter = Counter([*merger.parameters(), x])
    before = counter.current
    with counter:
        kept = [merger(x)]
    kept.append(counter.current - before)
    # Six of its inputs, and its input itself: the 7 beside the blocks'.
    assert 5.5 < kept[-1] / (1024 * 160 * 2) < 6.5
