"""PGPO through the real actor: against the naive reference, layouts, routing, metrics.

Covers one rank. More are in test_actor_distributed.py; the formulas themselves in
tests/core/test_core_pgpo.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import PGPOConfig
from areal_cppo.step.gate import Gated
from tests.step import harness, naive, naive_others
from tests.step.test_papo import mixed_batch

PGPO = "ppo_actor/update/pgpo"
# In the words of naive_others.pgpo_advantages.
OPTIONS = [
    {},
    {"tau": 0.0},
    {"tau": 1.0, "beta": 0.5},
    {"dependency": "kl", "max_dependency": 0.3},
    {"views": [{"name": "black_squares", "coverage": 0.5, "square": 14}]},
]


@pytest.fixture
def update(actor):
    """Gradient and statistics of an update with PGPO of such options."""
    items = harness.prepared(actor, mixed_batch())
    default = actor.config.pgpo

    def update(options: dict, batch=items):
        actor.config.objective, actor.config.pgpo = "pgpo", PGPOConfig(**options)
        return harness.update_gradient(actor, batch)

    update.items = items
    yield update
    actor.config.pgpo = default


def grpo(actor, items) -> torch.Tensor:
    actor.config.objective = "grpo"
    return harness.update_gradient(actor, items)[0]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default"
)
def test_gradient_equals_naive(actor, update, model_folder, options):
    gradient, _ = update(options)
    model = naive.load(model_folder)
    advantages = naive_others.pgpo_advantages(model, update.items, **options)
    loss = naive_others.policy(model, update.items, advantages)
    reference = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, reference) < 1e-5
    assert harness.relative_difference(gradient, grpo(actor, update.items)) > 0.1


def test_no_gradient_goes_through_the_scores_and_no_pass_is_added(actor, update):
    """One pass of the view, without a graph; those of the policy loss, with one."""
    forwards = []
    handle = actor.model.register_forward_pre_hook(
        lambda *_: forwards.append(torch.is_grad_enabled())
    )
    try:
        update({})
    finally:
        handle.remove()
    assert forwards == [False, True, True]  # the last is of the text-only response


def test_layout_does_not_matter(actor, update):
    """Packing, micro-batches, order, and prompts shared or not."""
    one_row, stats = update({})
    for spec, order in (
        (MicroBatchSpec(n_mbs=7), range(7)),
        (MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60), (6, 3, 0, 5, 4, 1, 2)),
    ):
        actor.config.mb_spec = spec
        gradient, others = update({}, [update.items[i] for i in order])
        assert harness.relative_difference(gradient, one_row) < 1e-5
        for name in ("dependency", "weight/max", "raised_tokens"):
            key = f"{PGPO}/{name}"
            assert others[key] == pytest.approx(stats[key], rel=1e-5)


def test_statistics_equal_naive(update, model_folder):
    """Weights are what advantages of 1 become."""
    _, stats = update({})
    model = naive.load(model_folder)
    ones = [item | {"advantages": item["advantages"] * 0 + 1} for item in update.items]
    weights = sum(naive_others.pgpo_advantages(model, ones)[:6], [])
    assert stats[f"{PGPO}/weight/max"] == pytest.approx(max(weights), rel=1e-4)
    assert stats[f"{PGPO}/weight/avg"] == pytest.approx(1.0, rel=1e-5)
    expected = {
        "gated_responses": 6,
        "view_sequences": 6,
        "text_only_responses": 1,
        "even_responses": 0,
        "nonfinite_responses": 0,
        "tokens": 87,
    }
    assert {name: stats[f"{PGPO}/{name}"] for name in expected} == expected
    assert 0 < stats[f"{PGPO}/raised_tokens"] < 87
    assert stats[f"{PGPO}/dependency"] > 0


def test_what_is_not_finite_keeps_its_advantage(actor, update, monkeypatch):
    original = Gated.pixel_values

    def poisoned(self, row, kind):
        return original(self, row, kind) * float("nan")

    monkeypatch.setattr(Gated, "pixel_values", poisoned)
    gradient, stats = update({})
    assert harness.relative_difference(gradient, grpo(actor, update.items)) < 1e-6
    assert stats[f"{PGPO}/nonfinite_responses"] == 6
    assert stats[f"{PGPO}/even_responses"] == stats[f"{PGPO}/tokens"] == 0
