"""The trainer of each GPU recipe, with that recipe's own settings, on one CPU rank.

Its `actor` (and `ref`) as the YAML says: bfloat16, flash-attention, gradient
checkpointing, mini-batches, clipping, normalisation, the reference policy, LoRA with
its optimiser and way of loading; on groups of the recipe's size, one of them without an
image. Only the model is another, and the rank is alone. torch's flash-attention is
stood in for (flash_on_cpu.py) and refuses what the kernel refuses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from areal.utils.data import concat_padded_tensors
from safetensors.torch import load_file, save_file

from areal_cppo.config.experiment import CPPOConfig, load_config
from areal_cppo.step.actor import CPPOActor
from tests.step import harness
from tests.step.flash_on_cpu import flash_on_cpu

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("qwen*.yaml"))
# Of two that differ in model, micro-batches and names only one will do.
RECIPES = [
    name
    for name in RECIPES
    if "_sync" not in name and not ("-7b_" in name and "lora" not in name)
]
GROUPS = 8  # a multiple of every recipe's mini-batches
BFLOAT16 = 0.1  # of the gradient's norm; the model's large weights amplify rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny model, its weights such as bfloat16 holds without loss."""
    folder = harness.make_model_folder(tmp_path_factory.mktemp("model"))
    file = folder / "model.safetensors"
    weights = {k: v.bfloat16().float() for k, v in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture
def recipe(folder, tmp_path, monkeypatch):
    """A recipe for one rank and the tiny model; else as it is shipped."""
    monkeypatch.chdir(tmp_path)

    def load(name: str, *more: str) -> CPPOConfig:
        own = [f"actor.path='{folder}'", "actor.backend=fsdp:d1", *more]
        if "24gb" in name:
            own.append("actor.fsdp.offload_params=false")  # torch asks for a GPU
        return load_config(CONFIGS / name, own)

    return load


def batch(config: CPPOConfig) -> list[dict[str, Any]]:
    """Groups as rollout makes them, of the recipe's size; the last has no image."""
    size, items = config.gconfig.n_samples, []
    for i in range(GROUPS):
        lengths = [3 + (5 * i + 3 * j) % 14 for j in range(size)]
        rewards = [float((i + j) % 3 == 0) for j in range(size)]
        members = harness.group(i + 1, lengths, rewards, (4, 4 + 2 * (i % 2)))
        if i == GROUPS - 1:
            members = [harness.text_only(member) for member in members]
        items.append(concat_padded_tensors(members))
    return items


def prepared(actor: CPPOActor, config: CPPOConfig, items) -> list[dict[str, Any]]:
    """The batch as AReaL's trainer hands it to the update, on-policy."""
    items = [dict(item) for item in items]
    for item, own in zip(items, actor.compute_logp(items), strict=True):
        item["logprobs"] = torch.roll(own, 1, -1) * item["loss_mask"]
    if actor.config.should_compute_prox_logp():
        for item, own in zip(items, actor.compute_logp(items), strict=True):
            item["prox_logp"] = own
    if config.ref is not None:
        reference = harness.make_actor(config.ref)
        for item, own in zip(items, reference.compute_logp(items), strict=True):
            item["ref_logp"] = own
    return actor.compute_advantages(items)


def exact(settings):
    """The same in float32 under sdpa, with every activation kept."""
    return replace(
        settings,
        dtype="float32",
        optimizer_dtype="float32",
        attn_impl="sdpa",
        gradient_checkpointing=False,
        optimizer=settings.optimizer and replace(settings.optimizer, type="adam"),
    )


def local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


@torch.no_grad()
def draw_adapters(actor: CPPOActor) -> None:
    """Their second factors begin at zero, where the first ones have no gradient."""
    generator = torch.Generator().manual_seed(5)
    for parameter in actor.model.parameters():
        if parameter.requires_grad:
            values = local(parameter)
            values.copy_(torch.randn(values.shape, generator=generator) * 0.1)


@torch.no_grad()
def take_weights(actor: CPPOActor, other: CPPOActor) -> None:
    pairs = zip(actor.model.parameters(), other.model.parameters(), strict=True)
    for mine, theirs in pairs:
        local(mine).copy_(local(theirs))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_step(recipe, name):
    """All mini-batches' gradients are float32's, as far as bfloat16 goes; a step of the
    recipe's optimiser is made and changes what it should."""
    config = recipe(name)
    with flash_on_cpu() as calls:
        actor = harness.make_actor(config.actor)
        items = batch(config)
        if config.actor.use_lora:
            draw_adapters(actor)
        ready = prepared(actor, config, items)
        gradient, stats = harness.update_gradient(actor, ready)
        assert calls.count("backward") > 0
    minibatches = config.actor.ppo_n_minibatches
    trained = sum(p.numel() for p in actor.model.parameters())
    assert len(gradient) == minibatches * trained
    assert torch.isfinite(gradient).all()
    views = stats.get("ppo_actor/update/cpl/view_sequences", 0)
    assert (views > 0) == (config.actor.objective == "cppo")

    plain = recipe(name)
    plain.actor = exact(plain.actor)
    plain.ref = plain.ref and exact(plain.ref)
    reference = harness.make_actor(plain.actor)
    take_weights(reference, actor)
    expected, _ = harness.update_gradient(reference, prepared(reference, plain, items))
    assert harness.relative_difference(gradient, expected) < BFLOAT16

    before = [p.detach().clone() for p in actor.model.parameters()]
    with flash_on_cpu():
        actor.ppo_update([dict(item) for item in ready])
    actor.step_lr_scheduler()
    assert actor.export_stats()["ppo_actor/update/update_successful"] == 1
    for parameter, old in zip(actor.model.parameters(), before, strict=True):
        if not parameter.requires_grad:
            assert torch.equal(parameter, old)
    assert any(not torch.equal(p, o) for p, o in zip(actor.model.parameters(), before))
