"""What a trainer's and a server's GPU hold: every term for the 3B, worked by hand.

What a layer keeps, counted on the CPU, and the shapes of all families are in
test_memory_counted.py; the sums of all recipes, as docs/recipes.md has them, in
test_memory_documented.py. Not covered: a real GPU.
"""

from __future__ import annotations

import pytest

from areal_cppo.config import memory
from areal_cppo.config.budget import server_memory, trainer_memory
from areal_cppo.config.memory import GIB
from areal_cppo.config.models import ModelShape
from tests.config.shipped import FULL, LORA, PARAMETERS, published_config, size_of

SHAPE = ModelShape.from_config(published_config("3B"))
T, D, INNER, V = 16384, 2048, 11008, 151936
PATCHES = 12 * 5120  # of 1,003,520 pixels, in 12 x (1,280 + 2) tokens of 16,384
IMAGE = 5120 * 1176 * 4


def of(load, name: str, *overrides: str) -> dict[str, int]:
    """A trainer's parts of a recipe."""
    size = size_of(name)
    config = load(name, *overrides)
    return trainer_memory(config, published_config(size), PARAMETERS[size])


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
    assert text == 3 * 42 * T * D * 2 == 8_455_716_864
    vision = memory.vision_activations(SHAPE, PATCHES, 3, 2)
    assert vision == 3 * PATCHES * (39 * 1280 + 1176) * 2 == 18_836_029_440
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
    # Twelve images in a pass, four threads with views.
    assert memory.step_pixels(IMAGE, 12, views=True) == IMAGE * (12 + 16)
    assert memory.step_pixels(IMAGE, 12, views=False) == IMAGE * 12
    assert memory.images_at_once(SHAPE, T, 1280) == 12


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
        "pixels": IMAGE * (12 + 16),
        "text activations": 8_455_716_864,
        "vision activations": 18_836_029_440,
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
        (["actor.objective=pgpo"], 1, 1),
        (["actor.objective=dvrp"], 3, 2),
        (["actor.objective=dvrp", "actor.dvrp.grad=[anchor,negative]"], 2, 2),
        (["actor.objective=papo", "actor.papo.negative_grad=true"], 2, 1),
        (["actor.objective=papo", "actor.papo.negative_grad=false"], 1, 1),
    ],
)
def test_passes_and_views(load, overrides, passes, kinds):
    parts = of(load, FULL, *overrides)
    assert parts["text activations"] == passes * 42 * T * D * 2
    assert parts["pixels"] == IMAGE * (12 + 16 * (kinds > 0))


def test_mini_batches_and_images(load):
    """Of eight mini-batches of whole groups, two problems each, at most two different
    images; none is larger than the longest prompt."""
    parts = of(load, FULL, "actor.ppo_n_minibatches=8", "data.max_pixels=99999999")
    image = 2046 * 4 * 1176 * 4
    assert parts["pixels"] == image * (2 + 16)
    patches = 2 * 2046 * 4
    assert parts["vision activations"] == 3 * patches * (39 * 1280 + 1176) * 2


def test_lora(load):
    parts = of(load, LORA)
    # Weights pass through from the machine's memory; the adapters are next to nothing.
    assert not {"frozen weights", "gradients on their way"} & parts.keys()
    # The vision tower has a graph: what it embeds is made to require gradient.
    assert parts["vision activations"] == 3 * 3 * 2048 * (39 * 1280 + 1176) * 2


def test_the_reference_policy_keeps_what_a_pass_allocated(load):
    """In its own process; in the trainer's, its shard alone; on its own GPUs,
    nothing."""
    name = "qwen2_5_vl-3b_virl39k_published.yaml"
    shard = PARAMETERS["3B"] * 2 // 4
    own = shard + IMAGE * 6 + 1_552_941_056 + 1024 * V * 16 + 2 * GIB
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
