"""What a dry run says of the memory of a trainer's and a server's GPU.

Covers every term for the 3B, worked by hand; the sums of all recipes as
docs/recipes.md has them; models in either layout of config.json; and what a layer keeps
for its backward pass, counted on the CPU. Not covered: a real GPU.
"""

from __future__ import annotations

import re
from pathlib import Path

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
from areal_cppo.config.memory import GIB, trainer_memory
from areal_cppo.config.model_size import ModelShape, server_memory
from areal_cppo.core import PatchLayout
from areal_cppo.run import dry_run as plan
from tests.config.shipped import CONFIGS, RECIPES, published_config

DOC = CONFIGS.parent / "docs" / "recipes.md"
PARAMETERS = {"3B": 3_754_622_976, "7B": 8_292_166_656}
SHAPE = ModelShape.from_config(published_config("3B"))
T, D, INNER, V = 8192, 2048, 11008, 151936
PATCHES = 6 * 5120  # of 1,003,520 pixels, in 6 x (1,280 + 2) tokens of 8,192
IMAGE = 5120 * 1176 * 4
FULL = "qwen2_5_vl-3b_geometry3k.yaml"


def of(load, name: str, *overrides: str) -> dict[str, int]:
    """A trainer's parts of a recipe."""
    size = size_of(name)
    config = load(name, *overrides)
    return trainer_memory(config, published_config(size), PARAMETERS[size])


def size_of(name: str) -> str:
    return "7B" if "-7b_" in name else "3B"


def test_the_3b():
    assert SHAPE == ModelShape(
        layers=36,
        hidden=D,
        inner=INNER,
        vocabulary=V,
        attention=2048 * 2048 * 2 + 2048 * 256 * 2,  # q and o, k and v
        blocks=32,
        width=1280,
        vision_inner=3420,
        patch=14,
        merge=2,
        features=3 * 2 * 14 * 14,
    )
    assert SHAPE.layer == 9_437_184 + 3 * D * INNER == 77_070_336
    assert SHAPE.root == 311_164_928
    assert SHAPE.image_tokens(1_003_520) == 1280
    assert SHAPE.image_bytes(1280) == IMAGE == 24_084_480


def test_each_term_of_the_3b():
    """In bf16, three passes with a graph, four ranks that reduce in fp32."""
    text = memory.text_activations(SHAPE, T, 3, 2)
    assert text == 3 * 42 * T * D * 2 == 4_227_858_432
    vision = memory.vision_activations(SHAPE, PATCHES, 3, 2)
    assert vision == 3 * PATCHES * (39 * 1280 + 1176) * 2 == 9_418_014_720
    assert memory.text_layer(SHAPE, T, 2) == T * (6 * INNER + 13 * D) * 2
    assert memory.vision_layer(SHAPE, PATCHES, 2) == PATCHES * (6 * 3420 + 21760) * 2
    assert memory.chunked_logits(SHAPE, T, 2) == 1024 * V * 16
    assert memory.chunked_logits(SHAPE, 100, 2) == 100 * V * 16
    assert memory.whole_logits(SHAPE, T, 2) == T * V * 18
    assert memory.stock_logits(SHAPE, T, 2) == V * (10 * T + 4096)
    assert memory.stock_logits(SHAPE, T, 2, published=True) == V * (32 * T + 4096)
    gathered = memory.gathered_weights(SHAPE, 2)
    assert gathered == 4 * 311_164_928 + 4 * 77_070_336
    # As computed, fp32 input of the reduce-scatter, a quarter of that for its output.
    assert memory.reduced_gradients(SHAPE, 4, 2, 4) == 7 * 311_164_928
    assert memory.reduced_gradients(SHAPE, 1, 2, 4) == 10 * 311_164_928
    # 128 responses of a rank, 16 problems: two views each, and the two kinds of rows.
    assert memory.step_pixels(IMAGE, 128, 16, 2) == IMAGE * (128 + 2 * 16 + 2 * 16)
    assert memory.step_pixels(IMAGE, 128, 16, 0) == IMAGE * (128 + 16)
    assert memory.images_at_once(SHAPE, T, 1280) == 6


def test_without_checkpointing_every_layer_keeps_what_it_has():
    text = memory.text_activations(SHAPE, T, 2, 2, checkpointing=False)
    assert text == 2 * 36 * memory.text_layer(SHAPE, T, 2)
    vision = memory.vision_activations(SHAPE, PATCHES, 2, 2, checkpointing=False)
    assert vision == 2 * 32 * memory.vision_layer(SHAPE, PATCHES, 2)


def test_the_recipe_for_the_3b(load):
    parts = of(load, FULL)
    layer = PATCHES * (6 * 3420 + 21760) * 2  # a vision block is more than the logits
    assert parts == {
        "weights, gradients, Adam": 16 * PARAMETERS["3B"] // 4,
        "pixels": IMAGE * 192,
        "text activations": 4_227_858_432,
        "vision activations": 9_418_014_720,
        "gathered weights": 1_552_941_056,
        "gradients on their way": 2_178_154_496,
        "logits or a layer": layer,
        "CUDA and gaps": 2 * GIB,
    }
    assert layer > 1024 * V * 16


@pytest.mark.parametrize(
    ("overrides", "passes", "kinds"),
    [
        (["actor.objective=grpo"], 1, 0),
        (["actor.cpl.coef=0"], 1, 0),
        (["actor.cpl.grad=[anchor]"], 1, 2),
        (["actor.cpl.grad=[anchor,negative]"], 2, 2),
        (["actor.objective=vppo"], 1, 1),
        (["actor.objective=papo", "actor.papo.negative_grad=true"], 2, 1),
        (["actor.objective=papo", "actor.papo.negative_grad=false"], 1, 1),
    ],
)
def test_passes_and_views(load, overrides, passes, kinds):
    parts = of(load, FULL, *overrides)
    assert parts["text activations"] == passes * 42 * T * D * 2
    rows = 2 if kinds else 1
    assert parts["pixels"] == IMAGE * (128 + 16 * (kinds + rows))


def test_mini_batches_and_images(load):
    """Of eight mini-batches of 16 responses each, at most 16 different images; none is
    larger than the longest prompt."""
    parts = of(load, FULL, "actor.ppo_n_minibatches=16", "data.max_pixels=99999999")
    image = 2046 * 4 * 1176 * 4
    assert parts["pixels"] == image * (128 + 8 * 4)
    patches = T // 2048 * 2046 * 4
    assert parts["vision activations"] == 3 * patches * (39 * 1280 + 1176) * 2


def test_lora(load):
    parts = of(load, "qwen2_5_vl-3b_geometry3k_lora_24gb.yaml")
    # Weights pass through from the machine's memory; the adapters are next to nothing.
    assert not {"frozen weights", "gradients on their way"} & parts.keys()
    # The vision tower has a graph: what it embeds is made to require gradient.
    assert parts["vision activations"] == 3 * 3 * 2048 * (39 * 1280 + 1176) * 2


def test_the_reference_policy_keeps_what_it_has_seen(load):
    """In its own process; in the trainer's, its shard alone; on its own GPUs,
    nothing."""
    name = "qwen2_5_vl-3b_virl39k_published.yaml"
    shard = PARAMETERS["3B"] * 2 // 4
    own = shard + IMAGE * (640 + 128) + 1_552_941_056 + 1024 * V * 16 + 2 * GIB
    assert of(load, name)["reference policy"] == own
    same = of(load, name, "ref.scheduling_strategy.fork=false")
    assert same["reference policy"] == shard
    apart = of(load, name, "ref.scheduling_strategy.type=separation")
    assert "reference policy" not in apart


def test_a_text_model_has_the_logits_of_all_tokens(load):
    config = load(FULL, "actor.objective=grpo")
    text = {
        "model_type": "qwen2",
        "hidden_size": D,
        "intermediate_size": INNER,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "vocab_size": V,
    }
    parts = trainer_memory(config, text, 10**9)
    assert parts["logits or a layer"] == V * (10 * T + 4096)
    assert "pixels" not in parts and "vision activations" not in parts


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


def test_a_servers(load):
    """36 KiB a token: 128 requests of 4,352 tokens, or what max_total_tokens says."""
    config = published_config("3B")
    parts = server_memory(load(FULL), config, PARAMETERS["3B"])
    held = "keys and values of 557,056 tokens, 36 KiB each"
    assert parts == {"weights": 7_509_245_952, held: 128 * 4352 * 36 * 1024}
    two = load(
        FULL,
        "rollout.backend=sglang:d2t2",
        "sglang.max_total_tokens=1000",
    )
    parts = server_memory(two, config, PARAMETERS["3B"])
    assert list(parts.values()) == [7_509_245_952 // 2, 1000 * 18 * 1024]


@pytest.mark.parametrize(
    ("name", "card", "words"),
    [
        (FULL, 79.2, "GPUs of this machine: 79.2 GiB each; a trainer fits"),
        (FULL, 24.0, "a trainer may need 14.9 GiB more: lower actor.mb_spec."),
        ("qwen2_5_vl-3b_geometry3k_lora_24gb.yaml", 23.6, "trainer and server fit"),
        ("qwen2_5_vl-3b_geometry3k_lora_24gb.yaml", 15.0, "trainer and server may"),
        (FULL, None, None),
    ],
)
def test_whether_it_fits_the_gpus_here(load, monkeypatch, name, card, words):
    found = None if card is None else int(card * GIB)
    monkeypatch.setattr(plan, "gpu_bytes", lambda: found)
    size = size_of(name)
    said = plan.describe(load(name), published_config(size), PARAMETERS[size])
    lines = [line for line in said if "GPUs of this machine" in line]
    assert (words is None) == (lines == [])
    if words:
        assert words in lines[0]


def test_what_torch_sees(monkeypatch):
    if not torch.cuda.is_available():
        assert memory.gpu_bytes() is None
    sizes = [80 * GIB, 24 * GIB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda i: type("Properties", (), {"total_memory": sizes[i]}),
    )
    assert memory.gpu_bytes() == 24 * GIB


def in_gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def documented() -> dict[str, list[str]]:
    """Rows of the table in docs/recipes.md by configuration, and its headings."""
    text = DOC.read_text().partition("## Memory")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    table = {"": rows[0][1:]}
    for first, *cells in rows[1:]:
        for name in re.findall(r"`([\w.-]+)`", first):
            table[f"{name}.yaml"] = cells
    return table


def test_the_documents_table_has_every_recipe():
    assert set(documented()) == {"", *RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_the_documents_table(load, name):
    table = documented()
    size = size_of(name)
    parts = of(load, name)
    held = {"weights, gradients, Adam", "frozen weights"}
    expected = {
        "sum": f"{sum(parts.values()) / GIB:.0f}",
        "weights, gradients, Adam": in_gib(sum(parts.get(key, 0) for key in held)),
        **{key: in_gib(value) for key, value in parts.items() if key not in held},
    }
    server = server_memory(load(name), published_config(size), PARAMETERS[size])
    weights, cache = server.values()
    expected |= {"server: weights": in_gib(weights), "keys, values": in_gib(cache)}
    for heading, cell in zip(table[""], table[name], strict=True):
        assert cell == expected.get(heading, "0.0"), heading


def test_the_documents_other_sums(load):
    """What its text says of 40 GB cards, of smaller images, and of both on one GPU."""
    text = " ".join(Path(DOC).read_text().split())
    name = "qwen2_5_vl-3b_geometry3k.yaml"
    small = sum(of(load, name, "actor.mb_spec.max_tokens_per_mb=4096").values())
    assert f"({small / GIB:.0f} GiB a trainer)" in text and small < 39 * GIB
    seven = sum(
        of(
            load, name.replace("3b", "7b", 1), "actor.mb_spec.max_tokens_per_mb=4096"
        ).values()
    )
    assert f"the 7B ({seven / GIB:.0f} GiB) does not" in text and seven > 40 * GIB
    published = "qwen2_5_vl-3b_virl39k_published.yaml"
    half = sum(of(load, published, "data.max_pixels=501760").values())
    assert f"`data.max_pixels=501760`: {half / GIB:.0f} GiB" in text
    for name, size, card in (
        ("qwen2_5_vl-3b_geometry3k_lora_24gb.yaml", "3B", 24),
        ("qwen2_5_vl-7b_geometry3k_lora_80gb.yaml", "7B", 80),
    ):
        trainer = sum(of(load, name).values())
        server = server_memory(load(name), published_config(size), PARAMETERS[size])
        both = trainer + sum(server.values()) + 2 * GIB
        assert f"{both / 1e9:.0f} of {card} GB" in text
