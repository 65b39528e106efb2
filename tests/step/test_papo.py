"""PAPO through the real actor: against the naive reference, layouts, routing, metrics.

Covers one rank. More are in test_actor_distributed.py; the formulas themselves in
tests/core/test_core_papo.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import PAPOConfig
from areal_cppo.core.papo import PAPOStalenessConfig
from areal_cppo.step.gate import Gated
from tests.step import harness, naive, naive_others

PAPO = "ppo_actor/update/papo"
# Each option alone and in company, in the words of naive_others.papo. The weights are
# larger than the published ones, so that an error shows beside the policy's gradient.
OPTIONS = [
    {},
    {"gamma": 1.0, "eta1": 0.0},
    {"gamma": 0.0, "eta1": 1.0},
    {"gamma": 1.0, "negative_grad": True},
    {"gamma": 1.0, "eta1": 0.3, "eta2": 0.5, "negative_grad": True},
    {"gamma": 1.0, "aggregation": "sequence"},
    {"gamma": 1.0, "divergence": "kl"},
    {"gamma": 1.0, "divergence": "kl", "negative_grad": True, "max_divergence": None},
    {"gamma": 0.1, "max_divergence": None},
    {"gamma": 1.0, "max_divergence": 0.5},
    {"gamma": 0.5, "eta1": 1.0, "entropy": "full"},
    {"eta1": 0.5, "eta2": 1.0, "entropy": "full", "negative_grad": True},
    {"gamma": 1.0, "decay": 0.5},
    {"gamma": 1.0, "views": [{"name": "blank"}]},
]


def as_config(options: dict) -> PAPOConfig:
    rest = {key: value for key, value in options.items() if key != "decay"}
    staleness = PAPOStalenessConfig(decay=options.get("decay", 1.0))
    return PAPOConfig(**rest, staleness=staleness)


def mixed_batch() -> list[dict]:
    """Uneven responses, of two policy versions; two images in one, none in another."""
    batch = [
        *harness.uneven_batch(),
        harness.trajectory(7, 14, 1.0, (4, 4), (2, 6)),
        harness.text_only(harness.trajectory(8, 10, 1.0)),
    ]
    for i, item in enumerate(batch):
        item["versions"][item["loss_mask"].bool()] = 1 + i % 2
    return batch


@pytest.fixture
def update(actor):
    """Gradient and statistics of an update with PAPO of such options."""
    actor.set_version(2)
    items = harness.prepared(actor, mixed_batch())
    default = actor.config.papo

    def update(options: dict, batch=items):
        actor.config.objective, actor.config.papo = "papo", as_config(options)
        return harness.update_gradient(actor, batch)

    update.items = items
    yield update
    actor.config.papo = default


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default"
)
def test_gradient_equals_naive(update, model_folder, options):
    gradient, _ = update(options)
    model = naive.load(model_folder)
    loss = naive.policy(model, update.items)
    loss = loss + naive_others.papo(model, update.items, version=2, **options)
    reference = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, reference) < 1e-5


def test_without_weights_it_is_grpo_and_computes_no_view(actor, update, monkeypatch):
    monkeypatch.setattr(Gated, "pixel_values", None)
    gradient, stats = update({"gamma": 0.0, "eta1": 0.0})
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    assert torch.equal(gradient, policy)
    assert not any(key.startswith(PAPO) for key in stats)


def test_vanishing_weights_are_grpo_too(actor, update):
    """With the views computed: they leave nothing behind but their terms."""
    gradient, stats = update({"gamma": 1e-30, "eta1": 0.0})
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    assert stats[f"{PAPO}/view_sequences"] == 6
    assert harness.relative_difference(gradient, policy) < 1e-6


def test_gradient_through_the_negative_view_is_a_choice(actor, update):
    """With both branches the terms' gradient is the sum of each one's own."""
    options = {"gamma": 1.0, "eta1": 0.0}
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    anchor_only = update(options)[0] - policy
    both = update(options | {"negative_grad": True})[0] - policy
    assert anchor_only.norm() > 0.01
    assert harness.relative_difference(both, anchor_only) > 0.1


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("negative_grad", [True, False])
def test_layout_does_not_matter(actor, update, aggregation, negative_grad):
    """Packing, micro-batches, order and padding."""
    options = {"gamma": 1.0, "eta1": 0.3, "eta2": 0.2 * negative_grad}
    options |= {"aggregation": aggregation, "negative_grad": negative_grad}
    one_row, stats = update(options)
    keys = [f"{PAPO}/{name}" for name in ("loss", "divergence", "tokens")]
    for spec in (
        MicroBatchSpec(n_mbs=7),
        MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60),
    ):
        actor.config.mb_spec = spec
        for order in (range(7), (6, 3, 0, 5, 4, 1, 2)):
            items = [update.items[i] for i in order]
            gradient, others = update(options, items)
            assert harness.relative_difference(gradient, one_row) < 1e-5
            for key in keys:
                assert others[key] == pytest.approx(stats[key], rel=1e-5)


def test_samples_of_a_group_may_share_their_prompt(actor, update):
    items = harness.prepared(actor, harness.grouped_batch())
    apart = {}
    for shared in (True, False):
        actor.config.speed.share_prompts = shared
        try:
            apart[shared], _ = update({"gamma": 1.0}, items)
        finally:
            actor.config.speed.share_prompts = True
    assert harness.relative_difference(apart[True], apart[False]) < 1e-5


def test_statistics_equal_naive(update, model_folder):
    _, stats = update({"max_divergence": 0.5})
    model, columns = naive.load(model_folder), []
    for item in update.items:
        views = naive_others.PAPO_VIEWS
        with torch.no_grad():
            logits = naive_others.both_logits(model, item, views, 2)
        if logits is None:
            continue
        tokens = naive_others.labels(item)
        log_p, log_q = (torch.log_softmax(x, -1) for x in logits)
        of_label = [x[range(len(tokens)), tokens] for x in (log_p, log_q)]
        ratio = of_label[1] - of_label[0]
        apart = (ratio.exp() - ratio - 1).clamp(max=0.5)
        weights = naive_others.staleness_weights(item, 2, 1.0)
        columns.append(
            torch.stack(
                [
                    apart,
                    -0.01 * apart - 0.03 * of_label[0],
                    torch.tensor(naive.entropy(logits[0])),
                    torch.tensor(naive.entropy(logits[1])),
                    torch.tensor(weights),
                ]
            )
        )
    table = torch.cat(columns, dim=1)
    names = ("divergence", "loss", "anchor_entropy", "negative_entropy")
    for name, row in zip((*names, "importance_weight"), table, strict=True):
        found = stats[f"{PAPO}/{name}"]
        assert found == pytest.approx(float(row.mean()), rel=1e-4), name
    assert stats[f"{PAPO}/tokens"] == table.shape[1] == 12 + 20 + 7 + 3 + 31 + 14
    assert stats[f"{PAPO}/bounded_tokens"] == int((table[0] == 0.5).sum()) > 0
    expected = {
        "gated_responses": 6,
        "text_only_responses": 1,
        "unchanged_responses": 0,
        "negative_views": 7,
        "negative_views_unchanged": 0,
        "nonfinite_tokens": 0,
        "skipped_responses": 0,
    }
    assert {name: stats[f"{PAPO}/{name}"] for name in expected} == expected
    assert stats["cppo/seconds_negative_view"] > 0
    assert "cppo/skipped_micro_batches" not in stats


def test_not_a_number_is_left_out_and_counted(actor, update, monkeypatch):
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, update.items)
    original = Gated.pixel_values

    def poisoned(self, row, kind):
        return original(self, row, kind) * float("nan")

    monkeypatch.setattr(Gated, "pixel_values", poisoned)
    for options in ({}, {"negative_grad": True, "eta2": 0.1, "entropy": "full"}):
        gradient, stats = update(options)
        assert harness.relative_difference(gradient, policy) < 1e-6
        assert stats[f"{PAPO}/skipped_responses"] == 6
        assert stats[f"{PAPO}/nonfinite_tokens"] > 0
        assert f"{PAPO}/loss" not in stats


def test_nothing_with_an_image_is_the_policy_loss(actor, update):
    texts = [harness.text_only(harness.trajectory(i, 9, 1.0)) for i in range(3)]
    items = harness.prepared(actor, texts)
    gradient, stats = update({"gamma": 1.0}, items)
    actor.config.objective = "grpo"
    policy, _ = harness.update_gradient(actor, items)
    assert torch.equal(gradient, policy)
    assert stats[f"{PAPO}/text_only_responses"] == 3
