"""VPPO through the real actor: against the naive reference, layouts, routing, metrics.

Covers one rank. More are in test_actor_distributed.py; the formulas themselves in
tests/core/test_core_vppo.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import VPPOConfig
from areal_cppo.step import update as update_module
from areal_cppo.step.gate import Gated
from areal_cppo.step.objectives.vppo import VPPOObjective
from tests.step import harness, naive, naive_others

VPPO = "ppo_actor/update/vppo"
# In the words of naive_others.vppo_advantages.
OPTIONS = [
    {},
    {"top_fraction": 1.0},
    {"top_fraction": 0.05},
    {"beta_min": 0.2, "beta_max": 2.0},
    {"beta_min": 1.0},
    {"dependency": "k3", "beta_min": 0.5},
    {"dependency": "k3", "max_dependency": None},
    {"max_dependency": 0.3, "beta_min": 0.0},
    {"views": [{"name": "blank"}]},
]


def mixed_batch() -> list[dict]:
    """Uneven responses; two images in one, none in another."""
    return [
        *harness.uneven_batch(),
        harness.trajectory(7, 14, 1.0, (4, 4), (2, 6)),
        harness.text_only(harness.trajectory(8, 10, 1.0)),
    ]


@pytest.fixture
def update(actor):
    """Gradient and statistics of an update with VPPO of such options."""
    items = harness.prepared(actor, mixed_batch())
    default = actor.config.vppo

    def update(options: dict, batch=items):
        actor.config.objective, actor.config.vppo = "vppo", VPPOConfig(**options)
        return harness.update_gradient(actor, batch)

    update.items = items
    yield update
    actor.config.vppo = default


def grpo(actor, items) -> torch.Tensor:
    actor.config.objective = "grpo"
    return harness.update_gradient(actor, items)[0]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default"
)
def test_gradient_equals_naive(update, model_folder, options):
    gradient, _ = update(options)
    model = naive.load(model_folder)
    advantages = naive_others.vppo_advantages(model, update.items, **options)
    reference = naive.gradient(
        model, naive_others.policy(model, update.items, advantages)
    )
    assert reference.norm() > 0.01
    assert harness.relative_difference(gradient, reference) < 1e-5


@pytest.mark.parametrize("beta_max", [1.0, None])
def test_without_filter_and_shaping_it_is_grpo(actor, update, beta_max):
    options = {"top_fraction": 1.0, "beta_min": 1.0, "beta_max": beta_max}
    gradient, stats = update(options)
    assert harness.relative_difference(gradient, grpo(actor, update.items)) < 1e-6
    assert stats[f"{VPPO}/view_sequences"] == 6
    assert stats[f"{VPPO}/factor/min"] == stats[f"{VPPO}/factor/max"] == 1


def test_filtered_tokens_have_exactly_no_gradient(actor, update, monkeypatch):
    """At the log-probs that the policy loss is made of, token by token."""
    seen = []
    original = update_module._policy_loss

    def spy(micro_batch, statistics, *args):
        statistics.logprobs.retain_grad()
        seen.append((statistics.logprobs, micro_batch))
        return original(micro_batch, statistics, *args)

    monkeypatch.setattr(update_module, "_policy_loss", spy)
    update({})
    counts = []
    for logprobs, mb in seen:
        kept = mb.data["advantages"][mb.needed] != 0
        assert logprobs.grad[~kept].eq(0).all() and logprobs.grad[kept].ne(0).all()
        counts.append((int(kept.sum()), len(kept)))
    # ceil(.4 n) of 12, 20, 7, 3, 31 and 14 tokens; all 10 of the one without an image.
    assert counts == [(5 + 8 + 3 + 2 + 13 + 6, 87), (10, 10)]


def test_no_gradient_goes_through_the_view(actor, update, monkeypatch):
    """Its passes have no graph, and the update's own passes see the image alone."""
    graphs = []
    original = VPPOObjective.view

    def spy(self, *args, **kwargs):
        hidden = original(self, *args, **kwargs)
        graphs.append(hidden.requires_grad)
        return hidden

    monkeypatch.setattr(VPPOObjective, "view", spy)
    forwards = []
    handle = actor.model.register_forward_pre_hook(
        lambda *_: forwards.append(torch.is_grad_enabled())
    )
    try:
        update({})
    finally:
        handle.remove()
    assert graphs == [False]
    # View and anchor before; the update's own, and that of the text-only response.
    assert forwards == [False, False, True, True]


def test_layout_does_not_matter(actor, update):
    """Packing, micro-batches, order and padding."""
    one_row, stats = update({})
    keys = [f"{VPPO}/{name}" for name in ("dependency", "kept_tokens", "factor/max")]
    for spec in (
        MicroBatchSpec(n_mbs=7),
        MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60),
    ):
        actor.config.mb_spec = spec
        for order in (range(7), (6, 3, 0, 5, 4, 1, 2)):
            items = [update.items[i] for i in order]
            gradient, others = update({}, items)
            assert harness.relative_difference(gradient, one_row) < 1e-5
            for key in keys:
                assert others[key] == pytest.approx(stats[key], rel=1e-5)


def test_samples_of_a_group_may_share_their_prompt(actor, update):
    items = harness.prepared(actor, harness.grouped_batch())
    apart = {}
    for shared in (True, False):
        actor.config.speed.share_prompts = shared
        try:
            apart[shared], _ = update({}, items)
        finally:
            actor.config.speed.share_prompts = True
    assert harness.relative_difference(apart[True], apart[False]) < 1e-5


def test_statistics_equal_naive(update, model_folder):
    _, stats = update({})
    model, values, means = naive.load(model_folder), [], []
    for item in update.items:
        with torch.no_grad():
            logits = naive_others.both_logits(model, item, naive_others.VPPO_VIEWS, 0)
        if logits is None:
            continue
        own = [min(10.0, float(naive.kl(p, q))) for p, q in zip(*logits)]
        values.extend(own)
        means.append(sum(own) / len(own))
    mean = sum(means) / len(means)
    expected = {
        "dependency": sum(values) / len(values),
        "response_dependency/avg": mean,
        "response_dependency/min": min(means),
        "response_dependency/max": max(means),
        "factor/avg": 1.0,
        "factor/min": 0.9,
        "factor/max": 0.9 + 0.1 * (max(means) - min(means)) / (mean - min(means)),
        "gated_responses": 6,
        "text_only_responses": 1,
        "unchanged_responses": 0,
        "negative_views": 7,
        "nonfinite_responses": 0,
        "tokens": 87,
        "kept_tokens": 37,
    }
    found = {name: stats[f"{VPPO}/{name}"] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)
    kept, filtered = (
        stats[f"{VPPO}/kept_dependency"],
        stats[f"{VPPO}/filtered_dependency"],
    )
    assert kept > stats[f"{VPPO}/dependency"] > filtered > 0
    assert stats["cppo/seconds_negative_view"] > 0


def test_a_response_that_is_not_finite_keeps_its_advantage(actor, update, monkeypatch):
    """All are poisoned: nothing is filtered, nothing shaped."""
    original = Gated.pixel_values

    def poisoned(self, row, kind):
        return original(self, row, kind) * float("nan")

    monkeypatch.setattr(Gated, "pixel_values", poisoned)
    gradient, stats = update({})
    assert harness.relative_difference(gradient, grpo(actor, update.items)) < 1e-6
    assert stats[f"{VPPO}/nonfinite_responses"] == 6
    assert stats[f"{VPPO}/tokens"] == 0


def test_only_the_response_that_is_not_finite(actor, update, model_folder, monkeypatch):
    """The others are shaped as if it weren't there."""
    actor.config.mb_spec = MicroBatchSpec(n_mbs=7)
    original = Gated.pixel_values
    calls = []

    def first_poisoned(self, row, kind):
        calls.append(kind)
        view = original(self, row, kind)
        return view * float("nan") if len(calls) == 1 else view

    monkeypatch.setattr(Gated, "pixel_values", first_poisoned)
    gradient, stats = update({})
    assert stats[f"{VPPO}/nonfinite_responses"] == 1
    assert torch.isfinite(gradient).all()
    assert stats[f"{VPPO}/factor/min"] == pytest.approx(0.9)
    assert stats[f"{VPPO}/factor/avg"] == pytest.approx(1.0)


def test_nothing_with_an_image_is_the_policy_loss(actor, update):
    texts = [harness.text_only(harness.trajectory(i, 9, 1.0)) for i in range(3)]
    items = harness.prepared(actor, texts)
    gradient, stats = update({}, items)
    assert torch.equal(gradient, grpo(actor, items))
    assert stats[f"{VPPO}/text_only_responses"] == 3
