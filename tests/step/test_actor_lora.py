"""LoRA actors through the real engine (FSDP2 around PEFT), against PEFT alone.

The reference is the plain transformers model with the adapters that the actor saved,
so saving is tested with everything else. Full-weight actors are in
test_actor_families.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoTokenizer

from areal_cppo.core import PatchLayout
from areal_cppo.run.trainer import CPPOTrainer
from areal_cppo.step.actor import CPPOActor
from tests.step import families, harness, naive

ALL_LINEAR = ["all-linear"]
ATTENTION = ["q_proj", "v_proj"]
CASES = [
    ("qwen2_vl", ALL_LINEAR),
    ("qwen2_5_vl", ALL_LINEAR),
    ("qwen2_5_vl", ATTENTION),
    ("qwen3_vl", ALL_LINEAR),
]


class Setup(NamedTuple):
    name: str
    actor: CPPOActor
    folder: Path  # the base model's
    adapters: Path
    targets: list[str]
    batch: list[dict[str, Any]]  # prepared
    layout: PatchLayout


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: f"{case[0]} {case[1][0]}"
)
def setup(request, tmp_path_factory) -> Setup:
    name, targets = request.param
    folder = families.make_folder(name, tmp_path_factory.mktemp(name))
    actor = families.lora_actor(folder, targets)
    return Setup(
        name,
        actor,
        folder,
        families.save(actor, tmp_path_factory.mktemp("adapters")),
        targets,
        harness.prepared(actor, families.mixed_batch(name)),
        families.FAMILIES[name].layout,
    )


def weights(actor: CPPOActor) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().full_tensor().clone()
        for name, parameter in actor.model.named_parameters()
    }


def test_a_checkpoint_has_the_tokenizer(setup, tmp_path):
    """AReaL leaves it out with LoRA; AutoTokenizer would then make an empty one."""
    actor = setup.actor
    trainer = SimpleNamespace(
        actor=actor,
        config=SimpleNamespace(actor=actor.config),
        tokenizer=actor.tokenizer,
        processor=actor.processor,
    )
    folder = CPPOTrainer.save_checkpoint(trainer, tmp_path / "step-1")
    text = "<think>AB=3"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == actor.tokenizer(text)["input_ids"] and len(ids) > 1


def test_logprobs_equal_peft_alone(setup):
    """Also that PEFT hides the method from AReaL that computes the positions."""
    model = families.with_adapters(setup.folder, setup.adapters)
    batch = families.mixed_batch(setup.name)
    packed = setup.actor.compute_logp([dict(item) for item in batch])
    for item, logprobs in zip(batch, packed, strict=True):
        n = naive.n_response(item)
        with torch.no_grad():
            expected = naive.logprobs(model, item)
            with model.disable_adapter():
                base = naive.logprobs(model, item)
        torch.testing.assert_close(
            logprobs[0, -n - 1 : -1], expected, rtol=0, atol=1e-5
        )
        assert (expected - base).abs().max() > 1e-2  # the adapters do something


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("objective", ["cpl", "cppo"])
def test_gradient_equals_peft_alone(setup, objective, grouped):
    setup.actor.config.objective = objective
    batch = setup.batch
    if grouped:
        batch = harness.prepared(setup.actor, families.grouped_batch(setup.name))
    gradient, stats = harness.update_gradient(setup.actor, batch)
    model = families.with_adapters(setup.folder, setup.adapters)
    loss, counts = naive.cpl(model, batch, layout=setup.layout)
    if objective == "cppo":
        loss = loss + naive.policy(model, batch)
    assert stats["ppo_actor/update/cpl/perception_tokens"] == sum(counts)
    expected = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, expected) < 1e-5
    adapters = torch.cat(
        [torch.full((p.numel(),), p.requires_grad) for p in model.parameters()]
    )
    assert gradient[~adapters].abs().max() == 0
    assert gradient[adapters].norm() > 0


def test_gradient_checkpointing_changes_nothing(setup):
    setup.actor.config.objective = "cppo"
    checkpointing = families.lora_actor(
        setup.folder, setup.targets, gradient_checkpointing=True
    )
    for name, value in weights(setup.actor).items():  # first factors are random too
        checkpointing.model.get_parameter(name).data.to_local().copy_(value)
    ((plain, _), plain_runs), ((gradient, _), runs) = (
        families.layer_runs(actor, lambda: harness.update_gradient(actor, setup.batch))
        for actor in (setup.actor, checkpointing)
    )
    assert runs > plain_runs > 0
    assert harness.relative_difference(gradient, plain) < 1e-5


def test_a_step_changes_the_adapters_only(setup):
    setup.actor.config.objective = "cppo"
    before = weights(setup.actor)
    setup.actor.ppo_update([dict(item) for item in setup.batch])
    setup.actor.export_stats()
    after = weights(setup.actor)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}
    for name, parameter in setup.actor.model.named_parameters():  # as it was
        parameter.data.to_local().copy_(before[name])


def test_all_linear_takes_the_vision_tower_too(setup):
    names = [n for n, p in setup.actor.model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in names)
    in_tower = [name for name in names if ".visual." in name]
    assert bool(in_tower) == (setup.targets == ALL_LINEAR)
    assert not any("lm_head" in name for name in names)
