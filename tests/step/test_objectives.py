"""A new objective is a file and a line: `toy_objective.py` and `register` below."""

from __future__ import annotations

import pytest
import torch

from areal_cppo.config.objectives import OBJECTIVES, Entry
from areal_cppo.metrics import declared
from tests.step import harness, naive, toy_objective


@pytest.fixture
def register(monkeypatch):
    entry = Entry("A toy", "tests.step.toy_objective")
    monkeypatch.setitem(OBJECTIVES, "toy", entry)
    declared.cache_clear()
    yield
    declared.cache_clear()


def test_it_is_trained_with_and_its_metric_is_known(register, actor, model_folder):
    config = harness.actor_config(model_folder, objective="toy")
    assert config.uses_views and not config.uses_cpl
    items = harness.prepared(actor, harness.uneven_batch())
    actor.config.objective = "toy"
    gradient, stats = harness.update_gradient(actor, items)

    model = naive.load(model_folder)
    total, tokens = 0.0, 0
    for item in items:
        anchor, negative = (
            naive.response_logits(model, item, pixels)
            for pixels in (
                item["multi_modal_input"][0]["pixel_values"],
                naive.view(item, "negative"),
            )
        )
        pairs = zip(anchor, negative.detach(), strict=True)
        total = total + sum(naive.kl(*pair) for pair in pairs)
        tokens += naive.n_response(item)
    loss = naive.policy(model, items) - total / len(items)
    reference = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, reference) < 1e-5

    metric = declared()["toy_divergence"]
    assert metric is toy_objective.DIVERGENCE
    assert stats[metric.key] == pytest.approx(float(total.detach()) / tokens, rel=1e-4)
    assert stats["ppo_actor/update/toy/gated_responses"] == len(items)


def test_an_objective_that_looks_at_nothing_is_the_policy_loss(register, actor):
    items = harness.prepared(actor, harness.uneven_batch())
    gradients = []
    for objective in ("grpo", "toy"):
        actor.config.objective = objective
        texts = [harness.text_only(item) for item in items]
        gradients.append(harness.update_gradient(actor, texts)[0])
    assert torch.equal(*gradients)
