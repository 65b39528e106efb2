"""Each supported model family through the real engine, against plain transformers.

One rank, tiny random models (families.py), a batch with several images of different
sizes per response and a response without any. LoRA is in test_actor_lora.py, what is
refused in test_config.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from areal_cppo.config import TORCH_FLASH
from areal_cppo.core import PatchLayout
from areal_cppo.step.actor import CPPOActor
from areal_cppo.step.gate import Gated
from areal_cppo.step.model import SharedImages
from areal_cppo.step.update import _pack
from tests.step import families, family_ranks, harness, naive
from tests.step.flash_on_cpu import flash_on_cpu

ONE_ROW = MicroBatchSpec(n_mbs=1)
ONE_EACH = MicroBatchSpec(n_mbs=6)
BY_TOKENS = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=80)


class Setup(NamedTuple):
    name: str
    folder: Path
    actor: CPPOActor
    batch: list[dict[str, Any]]  # as rollout makes it
    layout: PatchLayout


@pytest.fixture(scope="module", params=families.FAMILIES)
def setup(request, tmp_path_factory) -> Setup:
    name = request.param
    folder = families.make_folder(name, tmp_path_factory.mktemp(name))
    actor = harness.make_actor(harness.actor_config(folder))
    return Setup(
        name,
        folder,
        actor,
        families.mixed_batch(name),
        families.FAMILIES[name].layout,
    )


@pytest.fixture
def family(setup):
    setup.actor.config.objective = "cppo"
    setup.actor.config.mb_spec = ONE_ROW
    return setup


def assert_plain_logprobs(packed, batch, model) -> None:
    for item, logprobs in zip(batch, packed, strict=True):
        with torch.no_grad():
            expected = naive.logprobs(model, item)
        n = naive.n_response(item)
        torch.testing.assert_close(
            logprobs[0, -n - 1 : -1], expected, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("spec", [ONE_ROW, ONE_EACH, BY_TOKENS])
def test_logprobs_equal_plain_transformers(family, spec):
    family.actor.config.mb_spec = spec
    packed = family.actor.compute_logp([dict(item) for item in family.batch])
    assert_plain_logprobs(packed, family.batch, naive.load(family.folder))


def test_cpl_gradient_equals_naive(family):
    family.actor.config.objective = "cpl"
    batch = harness.prepared(family.actor, family.batch)
    gradient, stats = harness.update_gradient(family.actor, batch)
    model = naive.load(family.folder)
    loss, counts = naive.cpl(model, batch, layout=family.layout)
    # Gated: three with images. The sixth has a positive advantage but no image.
    assert len(counts) == 3
    assert stats["ppo_actor/update/cpl/view_sequences"] == 3
    assert stats["ppo_actor/update/cpl/perception_tokens"] == sum(counts)
    reference = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, reference) < 1e-5


@pytest.mark.parametrize("spec", [ONE_ROW, BY_TOKENS])
@pytest.mark.parametrize("shared", ["prompts", "images", "nothing"])
def test_groups_equal_naive(family, shared, spec):
    """Of DeepStack's features, too, each stands where its image does."""
    actor = family.actor
    actor.config.mb_spec = spec
    speed = actor.config.speed
    speed.share_prompts, speed.share_images = shared == "prompts", shared != "nothing"
    try:
        items = families.grouped_batch(family.name)
        logprobs = actor.compute_logp([dict(item) for item in items])
        batch = harness.prepared(actor, items)
        gradient, _ = harness.update_gradient(actor, batch)
    finally:
        speed.share_prompts = speed.share_images = True
    model = naive.load(family.folder)
    assert_plain_logprobs(logprobs, items, model)
    loss, counts = naive.cpl(model, batch, layout=family.layout)
    assert len(counts) == 6
    reference = naive.gradient(model, loss + naive.policy(model, batch))
    assert harness.relative_difference(gradient, reference) < 1e-5


@pytest.fixture
def flash(family):
    """The family's actor with torch's flash-attention, in text and vision tower."""
    actor = family.actor
    tower = actor.model.model.visual.config
    actor.config.attn_impl = tower._attn_implementation = TORCH_FLASH
    with flash_on_cpu((torch.float32,)) as calls:  # the kernels take bfloat16 only
        yield calls
    actor.config.attn_impl = tower._attn_implementation = "sdpa"


def test_flash_attention_equals_sdpa(family, request):
    """Shared prompts, full attention and windows of the tower, all gradients."""
    actor, items = family.actor, families.grouped_batch(family.name)
    actor.config.mb_spec = BY_TOKENS
    batch = harness.prepared(actor, items)
    sdpa = actor.compute_logp([dict(item) for item in items])
    gradient, stats = harness.update_gradient(actor, batch)
    calls = request.getfixturevalue("flash")
    for mine, theirs in zip(
        actor.compute_logp([dict(item) for item in items]), sdpa, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    of_flash, of_flash_stats = harness.update_gradient(actor, batch)
    assert harness.relative_difference(of_flash, gradient) < 1e-5
    key = "ppo_actor/update/cpl/perception_tokens"
    assert of_flash_stats[key] == stats[key]
    config = actor.model_config
    layers = config.text_config.num_hidden_layers + config.vision_config.depth
    assert calls.count("backward") % layers == 0 and calls.count("backward") > 0


def test_cpl_reaches_all_of_the_vision_tower(family):
    """The reference's gradient, which the test above compares with, is no blank."""
    family.actor.config.objective = "cpl"
    batch = harness.prepared(family.actor, family.batch)
    gradient, _ = harness.update_gradient(family.actor, batch)
    sizes = {n: p.numel() for n, p in family.actor.model.named_parameters()}
    by_name = dict(zip(sizes, gradient.split(list(sizes.values())), strict=True))
    tower = {n: g for n, g in by_name.items() if ".visual." in n}
    assert any("deepstack" in name for name in tower) == (family.name == "qwen3_vl")
    for name, part in tower.items():
        assert part.norm() > 0, name


def test_policy_gradient_packed_equals_alone(family):
    family.actor.config.objective = "grpo"
    batch = harness.prepared(family.actor, family.batch)
    gradients = []
    for spec in (ONE_EACH, ONE_ROW, BY_TOKENS):
        family.actor.config.mb_spec = spec
        gradients.append(harness.update_gradient(family.actor, batch)[0])
    model = naive.load(family.folder)
    reference = naive.gradient(model, naive.policy(model, batch))
    for gradient in gradients:
        assert harness.relative_difference(gradient, reference) < 1e-5


def positions_by_hand(ids: list[int], grids) -> list[list[int]]:
    """Temporal, height and width position of each token of one sequence.

    Text counts on from the largest so far; an image begins there on all three axes, and
    no time passes in it. `grids` yields one grid per image.
    """
    rows, following, at = [], 0, 0
    while at < len(ids):
        if ids[at] != harness.IMAGE:
            rows.append([following] * 3)
            following, at = following + 1, at + 1
            continue
        _, height, width = (int(n) for n in next(grids))
        height, width = height // 2, width // 2  # in merged tokens
        for h in range(height):
            for w in range(width):
                rows.append([following, following + h, following + w])
        following, at = following + max(height, width), at + height * width
    return rows


def test_packed_positions_are_those_by_hand(family):
    """What goes into the model, and so also what SGLang computes for still images."""
    padded, _ = family.actor._normalize_batch_input([dict(i) for i in family.batch])
    parts, gated = family.actor._parts(), Gated.nothing(padded)
    for micro_batch in _pack(parts, padded, gated, shifted=False):
        inputs = micro_batch.anchor.inputs
        grids = iter(inputs["image_grid_thw"])
        bounds = micro_batch.data["cu_seqlens"].tolist()
        ids, positions = inputs["input_ids"][0], inputs["position_ids"][:, 0]
        assert len(bounds) == len(family.batch) + 1
        for start, end in zip(bounds, bounds[1:], strict=False):
            expected = positions_by_hand(ids[start:end].tolist(), grids)
            assert positions[:, start:end].T.tolist() == expected


@pytest.mark.parametrize("grouped", [False, True])
def test_gradient_checkpointing_changes_nothing(family, grouped):
    """It is on (each layer runs again on the way back) and gives the same gradient."""
    family.actor.config.objective = "cpl"
    items = families.grouped_batch(family.name) if grouped else family.batch
    batch = harness.prepared(family.actor, items)
    config = harness.actor_config(
        family.folder, objective="cpl", gradient_checkpointing=True
    )
    checkpointing = harness.make_actor(config)
    ((plain, _), plain_runs), ((gradient, _), runs) = (
        families.layer_runs(actor, lambda: harness.update_gradient(actor, batch))
        for actor in (family.actor, checkpointing)
    )
    assert runs > plain_runs > 0
    assert harness.relative_difference(gradient, plain) < 1e-5


def test_the_vision_tower_never_sees_the_rows_packing(family):
    """transformers from 5.9 on hands it over; here that is done by hand."""
    model = naive.load(family.folder)
    images = family.batch[0]["multi_modal_input"][0]

    def features(**more):
        tower = model.model.visual
        done = tower(images["pixel_values"], grid_thw=images["image_grid_thw"], **more)
        return done.pooler_output

    expected = features()
    SharedImages(model.model.visual)
    seen = []
    block = model.model.visual.blocks[0]
    block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True
    )
    assert torch.equal(features(packing="of the row"), expected)
    assert seen and "packing" not in seen[0]


@pytest.mark.parametrize("config_class", [Qwen2Config, Qwen3Config])
def test_text_models_train_with_grpo(tmp_path, config_class):
    """No family of ours, but the packing mask is theirs too."""
    vision = families.tiny_config("qwen2_vl")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    text = {name: getattr(vision.text_config, name) for name in names}
    config = config_class(
        **text, num_hidden_layers=2, num_key_value_heads=2, head_dim=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    families.build_tokenizer().save_pretrained(tmp_path)
    actor = harness.make_actor(harness.actor_config(tmp_path, objective="grpo"))
    batch = [harness.text_only(harness.trajectory(i, 6 + i, 1.0)) for i in range(3)]
    for item in batch:
        del item["multi_modal_input"], item["mm_token_type_ids"]
    packed = actor.compute_logp([dict(item) for item in batch])
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for item, logprobs in zip(batch, packed, strict=True):
        with torch.no_grad():
            scores = torch.log_softmax(model(item["input_ids"]).logits[0, :-1], -1)
        expected = scores.gather(1, item["input_ids"][0, 1:, None])[:, 0]
        torch.testing.assert_close(logprobs[0, :-1], expected, rtol=0, atol=1e-5)
    actor.keep_samples(str(tmp_path), 1, 1, 2)  # of text, too
    harness.update_gradient(actor, harness.prepared(actor, batch))
    (file,) = tmp_path.glob("step-00001-0.pt")
    records = torch.load(file, weights_only=True)["responses"]
    prompts = [(item["input_ids"][0, :3]).tolist() for item in batch]
    assert [each["prompt"][:3] in prompts for each in records] == [True] * 2


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in families.FAMILIES:
        families.make_folder(name, folder / name)
    out = folder / "out.pt"
    harness.run_ranks(Path(family_ranks.__file__), 2, folder, out, seconds=240)
    return folder, torch.load(out, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", family_ranks.CASES)
def test_two_ranks_equal_naive(two_ranks, case):
    """Sharded weights, shared adapters: the gradient of the whole batch."""
    folder, results = two_ranks
    gradient, batch = results[case]
    name = case.split()[0]
    model = naive.load(folder / name)
    if family_ranks.CASES[case]:
        model = families.with_adapters(folder / name, folder / case)
    loss, counts = naive.cpl(model, batch, layout=families.FAMILIES[name].layout)
    assert len(counts) == 3
    reference = naive.gradient(model, loss + naive.policy(model, batch))
    assert harness.relative_difference(gradient, reference) < 1e-5
