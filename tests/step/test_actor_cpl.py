"""CPL through the real actor, against the naive reference; what it costs; routing.

Covers one rank. Two ranks are in test_actor_distributed.py; the functions themselves in
tests/core.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from areal_cppo.core import StalenessConfig
from areal_cppo.step.gate import Gated
from tests.step import harness, naive


@pytest.fixture
def batch(actor):
    return harness.prepared(actor, harness.uneven_batch())


def cpl_gradient(actor, batch):
    actor.config.objective = "cpl"
    return harness.update_gradient(actor, batch)


GRADS = [
    list(branches)
    for n in (1, 2, 3)
    for branches in itertools.combinations(("anchor", "positive", "negative"), n)
]
STALE = [
    {},
    {"importance": False},
    {"cap": 1.5, "decay": 0.7},
    {"cap": None, "max_staleness": 1},
    {"decay": 0.0, "max_staleness": 0},
]
# Each option alone and in company, in the words of naive.cpl.
OPTIONS = [
    *({"grad": grad} for grad in GRADS),
    *(
        {"divergence": kind, "aggregation": aggregation}
        for kind in ("kl", "k1", "k2", "k3")
        for aggregation in ("sequence", "token")
    ),
    *({"gate": "none", **stale} for stale in STALE),
    {"selection": "all"},
    {"selection": "entropy_rise", "top": 0.2},
    {"selection": "all", "gate": "none", "aggregation": "token", "divergence": "k3"},
    {"min_gain": 0.005},
    {"min_gain": 0.02, "aggregation": "token"},
    {"quota": "floor", "top": 0.3},
    {"top": 1.0, "tau": 2.0},
    {"quota": "floor", "divergence": "k3", "importance": False},  # as published
]


def as_config(options: dict) -> dict:
    """`actor.cpl` from the words of naive.cpl."""
    names = {
        "importance": "importance_weight",
        "cap": "importance_cap",
        "decay": "decay",
        "max_staleness": "max_staleness",
    }
    stale = {names[key]: value for key, value in options.items() if key in names}
    rest = {key: value for key, value in options.items() if key not in names}
    if "top" in rest:
        rest["top_fraction"] = rest.pop("top")
    return rest | {"staleness": StalenessConfig(**stale)}


def mixed_batch() -> list[dict]:
    """Uneven responses of several policy versions, several images in one, none in
    another."""
    batch = [
        *harness.uneven_batch(),
        harness.trajectory(7, 14, 1.0, (4, 4), (2, 6)),
        harness.text_only(harness.trajectory(8, 10, 1.0)),
    ]
    for i, item in enumerate(batch):
        response = item["loss_mask"].bool()
        n = int(response.sum())
        ages = torch.arange(n, dtype=torch.int32) * 4 // n  # a response grows staler
        item["versions"][response] = 3 - (ages + i) % 4
    return batch


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default"
)
def test_gradient_equals_naive(actor, configure, model_folder, options):
    configure(**as_config(options))
    actor.set_version(3)
    batch = harness.prepared(actor, mixed_batch())
    gradient, stats = cpl_gradient(actor, batch)
    model = naive.load(model_folder)
    loss, counts = naive.cpl(model, batch, version=3, **options)
    assert sum(counts) == stats["ppo_actor/update/cpl/perception_tokens"]
    reference = naive.gradient(model, loss)
    assert reference.norm() > 0.01
    assert harness.relative_difference(gradient, reference) < 1e-5


def test_random_control_takes_as_many_tokens_and_others(actor, configure):
    batch = harness.prepared(actor, mixed_batch())
    update = "ppo_actor/update/cpl"
    by_gain, stats = cpl_gradient(actor, batch)
    configure(selection="random")
    at_random, random_stats = cpl_gradient(actor, batch)
    for key in ("perception_tokens", "view_sequences"):
        assert random_stats[f"{update}/{key}"] == stats[f"{update}/{key}"]
    assert random_stats[f"{update}/selected_gain"] < stats[f"{update}/selected_gain"]
    assert harness.relative_difference(at_random, by_gain) > 0.1
    actor.set_version(1)
    later, _ = cpl_gradient(actor, batch)
    assert harness.relative_difference(later, at_random) > 0.01


def test_objectives_add_up(actor, batch):
    gradients = {}
    for objective in ("cppo", "grpo", "cpl"):
        actor.config.objective = objective
        gradients[objective] = harness.update_gradient(actor, batch)[0]
    total = gradients["grpo"] + gradients["cpl"]
    assert harness.relative_difference(total, gradients["cppo"]) < 1e-5


class Counted:
    """Counts view passes and the images in them."""

    def __init__(self, monkeypatch):
        self.images: dict[str, list[int]] = {"positive": [], "negative": []}
        original = Gated.pixel_values

        def counting(gated, row, kind):
            views = [gated.views[i] for i in row.image_sets]
            self.images[kind].append(sum(view.images for view in views))
            return original(gated, row, kind)

        monkeypatch.setattr(Gated, "pixel_values", counting)


def test_grpo_computes_no_view(actor, batch, monkeypatch):
    counted = Counted(monkeypatch)
    forwards = []
    handle = actor.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    actor.config.objective = "grpo"
    harness.update_gradient(actor, batch)
    handle.remove()
    assert counted.images == {"positive": [], "negative": []}
    assert len(forwards) == 1  # the policy loss's, on one row


def test_coefficient_zero_computes_no_view(actor, configure, batch, monkeypatch):
    configure(coef=0.0)
    counted = Counted(monkeypatch)
    harness.update_gradient(actor, batch)
    assert counted.images == {"positive": [], "negative": []}


def test_only_gated_responses_enter_the_view_passes(actor, batch, monkeypatch):
    """Three of five responses have a positive advantage, one image each."""
    counted = Counted(monkeypatch)
    _, stats = harness.update_gradient(actor, batch)
    assert counted.images == {"positive": [3], "negative": [3]}
    assert stats["ppo_actor/update/cpl/view_sequences"] == 3
    assert stats["ppo_actor/update/cpl/gated_responses"] == 3


def test_nothing_gated_computes_no_view(actor, monkeypatch):
    losers = [harness.trajectory(i, 9, -1.0) for i in range(3)]
    counted = Counted(monkeypatch)
    gradient, stats = harness.update_gradient(actor, harness.prepared(actor, losers))
    assert counted.images == {"positive": [], "negative": []}
    assert stats["ppo_actor/update/cpl/gated_responses"] == 0
    assert gradient.norm() > 0


def test_nothing_gated_leaves_cpl_alone_nothing_to_learn(actor):
    losers = [harness.trajectory(i, 9, -1.0) for i in range(3)]
    gradient, _ = cpl_gradient(actor, harness.prepared(actor, losers))
    assert gradient.abs().max() == 0


def test_gate_none_lets_all_through(actor, configure, batch, monkeypatch):
    configure(gate="none")
    counted = Counted(monkeypatch)
    harness.update_gradient(actor, batch)
    assert counted.images == {"positive": [5], "negative": [5]}


def test_views_change_with_the_policy_version(actor, batch):
    first, _ = cpl_gradient(actor, batch)
    again, _ = cpl_gradient(actor, batch)
    actor.set_version(1)
    later, _ = cpl_gradient(actor, batch)
    assert torch.equal(first, again)
    assert harness.relative_difference(later, first) > 1e-3


@pytest.mark.parametrize("others", [5, 1])
def test_text_only_response_is_trained_on_but_has_no_views(actor, monkeypatch, others):
    """With one other, the text-only response is alone among the ungated ones."""
    text = harness.text_only(harness.trajectory(7, 10, 1.0))
    images = harness.uneven_batch()[:others]
    batch = harness.prepared(actor, [*images, text])
    counted = Counted(monkeypatch)
    with_text, _ = harness.update_gradient(actor, batch)
    gated = 3 if others == 5 else 1
    assert counted.images == {"positive": [gated], "negative": [gated]}
    without, _ = harness.update_gradient(actor, batch[:-1])
    assert harness.relative_difference(with_text, without) > 1e-3


def test_staleness_is_recorded(actor):
    batch = [harness.trajectory(i, 4 + i, 1.0, version=i) for i in range(3)]
    actor.set_version(2)
    _, stats = harness.update_gradient(actor, harness.prepared(actor, batch))
    counts = [stats[f"cppo/staleness_tokens/{k:02d}"] for k in range(4)]
    assert counts == [6, 5, 4, 0]
    assert stats["cppo/staleness/avg"] == pytest.approx((2 * 4 + 1 * 5) / 15)
    assert stats["cppo/correct"] == 1.0
