"""DVRP through the real actor: against the naive reference, layouts, routing.

Covers one rank; what it shares with PAPO (`step/objectives/terms.py`) is in
test_papo.py, ranks are in test_actor_distributed.py, the formula itself in
tests/core/test_core_dvrp.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import DVRPConfig
from areal_cppo.core.dvrp import DVRPStalenessConfig
from areal_cppo.step.gate import Gated
from tests.step import harness, naive, naive_others
from tests.step.test_papo import mixed_batch

DVRP = "ppo_actor/update/dvrp"
NOTHING = {"lambda_nec": 0.0, "lambda_rob": 0.0, "lambda_ent": 0.0}
# In the words of naive_others.dvrp; weights so large that an error shows.
OPTIONS = [
    {},
    {"lambda_nec": 1.0, "lambda_rob": 0.5, "lambda_ent": 0.3},
    {"lambda_nec": 1.0, "lambda_ent": 0.3, "grad": ["anchor", "positive"]},
    {"lambda_rob": 1.0, "lambda_ent": 0.3, "grad": ["negative"]},
    {"lambda_nec": 1.0, "lambda_rob": 1.0, "divergence": "k3"},
    {"lambda_nec": 1.0, "max_divergence": 0.5, "aggregation": "sequence"},
    {"lambda_nec": 1.0, "max_divergence": None, "decay": 0.5},
]


@pytest.fixture
def update(actor):
    """Gradient and statistics of an update with DVRP of such options."""
    actor.set_version(2)
    items = harness.prepared(actor, mixed_batch())
    default = actor.config.dvrp

    def update(options: dict, batch=items):
        rest = {key: value for key, value in options.items() if key != "decay"}
        staleness = DVRPStalenessConfig(decay=options.get("decay", 1.0))
        actor.config.objective = "dvrp"
        actor.config.dvrp = DVRPConfig(**rest, staleness=staleness)
        return harness.update_gradient(actor, batch)

    update.items = items
    yield update
    actor.config.dvrp = default


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default"
)
def test_gradient_equals_naive(update, model_folder, options):
    gradient, _ = update(options)
    model = naive.load(model_folder)
    added = naive_others.dvrp(model, update.items, version=2, **options)
    reference = naive.gradient(model, naive.policy(model, update.items) + added)
    assert harness.relative_difference(gradient, reference) < 1e-5


def test_statistics_equal_naive(update, model_folder):
    """Each term by a weight of its own, as a mean over tokens."""
    _, stats = update({})
    model = naive.load(model_folder)

    def mean(**weights: float) -> float:
        with torch.no_grad():
            return float(
                naive_others.dvrp(
                    model, update.items, version=2, weighted=False, **weights
                )
            )

    def found(name: str) -> float:
        return stats[f"{DVRP}/{name}"]

    assert found("loss") == pytest.approx(mean(), rel=1e-4)
    away = mean(**NOTHING | {"lambda_nec": 1.0})
    assert found("negative_divergence") == pytest.approx(-away, rel=1e-4)
    near = mean(**NOTHING | {"lambda_rob": 1.0})
    assert found("positive_divergence") == pytest.approx(near, rel=1e-4)
    both = mean(**NOTHING | {"lambda_ent": 1.0})
    entropies = found("negative_entropy") + found("positive_entropy")
    assert entropies == pytest.approx(both, rel=1e-4)
    assert found("tokens") == 87 and found("view_sequences") == 6
    assert found("positive_views") == found("negative_views") == 7


def test_each_view_has_gradient_only_where_it_is_named(actor, update):
    """Gradient is the sum of the branches' own; none of them is empty."""
    options = {"lambda_nec": 1.0, "lambda_rob": 0.5, "lambda_ent": 0.0}
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    branches = ("anchor", "positive", "negative")
    own = [update(options | {"grad": [branch]})[0] - policy for branch in branches]
    assert all(gradient.norm() > 0.01 for gradient in own)
    together = update(options)[0] - policy
    assert harness.relative_difference(sum(own), together) < 1e-5


def test_without_weights_it_is_grpo_and_computes_no_view(actor, update, monkeypatch):
    monkeypatch.setattr(Gated, "pixel_values", None)
    gradient, stats = update(NOTHING)
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    assert gradient.equal(policy)
    assert not any(key.startswith(DVRP) for key in stats)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_layout_does_not_matter(actor, update, aggregation):
    """Packing, micro-batches and order."""
    options = {"lambda_nec": 1.0, "lambda_rob": 0.5, "aggregation": aggregation}
    one_row, stats = update(options)
    for spec, order in (
        (MicroBatchSpec(n_mbs=7), range(7)),
        (MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60), (6, 3, 0, 5, 4, 1, 2)),
    ):
        actor.config.mb_spec = spec
        gradient, others = update(options, [update.items[i] for i in order])
        assert harness.relative_difference(gradient, one_row) < 1e-5
        for name in ("loss", "negative_divergence", "positive_divergence", "tokens"):
            key = f"{DVRP}/{name}"
            assert others[key] == pytest.approx(stats[key], rel=1e-5)


def test_not_a_number_in_the_positive_view_is_left_out(actor, update, monkeypatch):
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    original = Gated.pixel_values

    def poisoned(self, row, kind):
        view = original(self, row, kind)
        return view * float("nan") if kind == "positive" else view

    monkeypatch.setattr(Gated, "pixel_values", poisoned)
    gradient, stats = update({})
    assert harness.relative_difference(gradient, policy) < 1e-6
    assert stats[f"{DVRP}/skipped_responses"] == 6
    assert f"{DVRP}/loss" not in stats
