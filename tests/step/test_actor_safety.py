"""What must not go wrong: views that are none, numbers that are none, bf16.

Not a number on another rank is in test_actor_distributed.py; extreme logits in each
divergence are in tests/core/test_core_divergence.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import CPLConfig, StalenessConfig, ViewsConfig
from areal_cppo.step.gate import Gated
from areal_cppo.step.views import ViewMaker
from tests.step import harness

CPL = "ppo_actor/update/cpl"


def gradient(actor, batch, objective="cppo"):
    actor.config.objective = objective
    return harness.update_gradient(actor, batch)


@pytest.fixture
def batch(actor):
    return harness.prepared(actor, harness.uneven_batch())


def views_of(actor, images, rows, version=0):
    """What the actor would make for these rows in a step."""
    views = actor.config.cpl.views
    kinds = {"positive": views.positive, "negative": views.negative}
    maker = ViewMaker(kinds, harness.LAYOUT, actor.config.view_seed)
    return {row: maker(images[row], version, actor.device) for row in rows}


@pytest.mark.parametrize("kind", ["positive", "negative"])
@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_not_a_number_is_left_out_and_counted(
    actor, configure, batch, monkeypatch, kind, aggregation
):
    configure(aggregation=aggregation)
    policy, _ = gradient(actor, batch, "grpo")
    original = Gated.pixel_values

    def poisoned(self, row, which):
        view = original(self, row, which)
        return view * float("nan") if which == kind else view

    monkeypatch.setattr(Gated, "pixel_values", poisoned)
    update, stats = gradient(actor, batch)
    assert harness.relative_difference(update, policy) < 1e-6
    assert stats["cppo/skipped_micro_batches"] == 1
    assert stats[f"{CPL}/skipped_responses"] == 3
    assert stats[f"{CPL}/nonfinite_tokens"] > 0
    assert f"{CPL}/loss" not in stats
    alone, _ = gradient(actor, batch, "cpl")
    assert torch.equal(alone, torch.zeros_like(alone))


def test_only_the_micro_batch_that_is_not_finite_is_left_out(actor, batch, monkeypatch):
    actor.config.mb_spec = MicroBatchSpec(n_mbs=5)
    whole, _ = gradient(actor, batch, "cpl")
    original = Gated.pixel_values
    calls = []

    def first_poisoned(self, row, kind):
        calls.append(kind)
        view = original(self, row, kind)
        return view * float("nan") if len(calls) == 1 else view

    monkeypatch.setattr(Gated, "pixel_values", first_poisoned)
    rest, stats = gradient(actor, batch, "cpl")
    assert stats["cppo/skipped_micro_batches"] == 1
    assert torch.isfinite(rest).all() and rest.norm() > 0
    assert harness.relative_difference(rest, whole) > 1e-3
    assert stats[f"{CPL}/loss"] > 0


TINY = {"name": "gaussian_blur", "kernel_size": 3, "sigma": 0.01}
NEVER = {"name": "noise_patches", "probability": 0.0}
BLANK = {"name": "blank"}


@pytest.mark.parametrize("negative", [[TINY], [NEVER, TINY]])
def test_a_negative_view_equal_to_its_anchor_is_never_used(
    actor, configure, batch, negative, monkeypatch
):
    configure(views=ViewsConfig(negative=negative))
    passes = []
    monkeypatch.setattr(Gated, "pixel_values", lambda *a: passes.append(a))
    update, stats = gradient(actor, batch)
    assert not passes
    assert stats[f"{CPL}/unchanged_responses"] == 3
    assert stats[f"{CPL}/negative_views_unchanged"] == 3
    assert stats[f"{CPL}/gated_responses"] == 0
    policy, _ = gradient(actor, batch, "grpo")
    assert harness.relative_difference(update, policy) < 1e-6


def test_a_response_without_a_negative_view_does_not_count(actor, configure, batch):
    """Left out of the mean as well: as if it had not passed the gate."""
    half = {**BLANK, "probability": 0.5}
    configure(views=ViewsConfig(negative=[half]))
    update, stats = gradient(actor, batch, "cpl")
    left_out = stats[f"{CPL}/unchanged_responses"]
    assert 0 < left_out < 3 and stats[f"{CPL}/gated_responses"] == 3 - left_out
    usable = [
        i
        for i, item in enumerate(batch)
        if views_of(actor, item["multi_modal_input"], [0])[0].usable
    ]
    rest, _ = gradient(actor, [batch[i] for i in usable], "cpl")
    assert harness.relative_difference(update, rest) < 1e-5


def test_a_positive_view_may_equal_its_anchor(actor, configure, batch):
    configure(views=ViewsConfig(positive=[TINY]))
    _, stats = gradient(actor, batch)
    assert stats[f"{CPL}/gated_responses"] == 3
    assert stats[f"{CPL}/positive_views_unchanged"] == 3
    assert stats[f"{CPL}/positive_divergence"] == pytest.approx(0, abs=1e-6)


def test_one_changed_image_of_several_is_enough(actor, configure):
    """The first image is blank already, so that its view can't differ."""
    item = harness.trajectory(3, 12, 1.0, (4, 4), (4, 6))
    item["multi_modal_input"][0]["pixel_values"][:16] = 0.0
    configure(views=ViewsConfig(negative=[BLANK]))
    _, stats = gradient(actor, harness.prepared(actor, [item]))
    assert stats[f"{CPL}/negative_views"] == 2
    assert stats[f"{CPL}/negative_views_unchanged"] == 1
    assert stats[f"{CPL}/gated_responses"] == 1


def test_samples_of_a_group_share_their_views(actor, monkeypatch):
    group = [harness.trajectory(3, n, 1.0) for n in (8, 8, 8)]
    for item in group[1:]:  # equal, but not the same
        images = group[0]["multi_modal_input"][0]
        item["multi_modal_input"] = [{k: v.clone() for k, v in images.items()}]
    made = []
    original = ViewMaker.__call__

    def spy(self, *args):
        made.append(original(self, *args))
        return made[-1]

    monkeypatch.setattr(ViewMaker, "__call__", spy)
    batch = harness.prepared(actor, group)
    gradient(actor, batch)
    actor.set_version(1)
    gradient(actor, batch)
    first, later = made  # one for three responses, anew for each version
    for kind in ("positive", "negative"):
        a, b = first.pixel_values[kind], later.pixel_values[kind]
        assert a.shape == b.shape == images["pixel_values"].shape
        assert not torch.equal(a, b)


def test_on_policy_data_gives_exactly_the_unweighted_loss(actor, configure):
    batch = harness.prepared(actor, harness.uneven_batch())
    for item in batch:
        item["logprobs"] = item["prox_logp"].clone()
    configure(staleness=StalenessConfig(importance_weight=False))
    plain, _ = gradient(actor, batch, "cpl")
    for staleness in (
        StalenessConfig(),
        StalenessConfig(decay=0.3, max_staleness=0, importance_cap=1.0),
    ):
        configure(staleness=staleness)
        weighted, stats = gradient(actor, batch, "cpl")
        assert torch.equal(weighted, plain)
        assert stats[f"{CPL}/staleness_weight"] == 1.0


def test_without_proximal_logprobs_the_current_policys_take_their_place(
    actor, batch, monkeypatch
):
    """AReaL's `prox_logp_method: loglinear`; before the first update both are equal."""
    recomputed, stats = gradient(actor, batch, "cpl")
    monkeypatch.setattr(actor.config, "prox_logp_method", "loglinear")
    for item in batch:
        del item["prox_logp"]
    taken, taken_stats = gradient(actor, batch, "cpl")
    assert harness.relative_difference(taken, recomputed) < 1e-5
    weight = f"{CPL}/staleness_weight"
    assert taken_stats[weight] == pytest.approx(stats[weight], rel=1e-5)
    assert stats[weight] != pytest.approx(1.0, abs=0.05)  # so the weights matter here


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
    """An actor whose distributions are one-hot to the last bit.

    With CPL alone: at such logits AReaL's own ratio of probabilities overflows.
    """
    folder = harness.make_model_folder(tmp_path_factory.mktemp("sharp"))
    actor = harness.make_actor(harness.actor_config(folder))
    with torch.no_grad():
        actor.model.lm_head.weight.mul_(1e6)
    return actor


@pytest.mark.parametrize("divergence", ["kl", "k1", "k2", "k3"])
def test_extreme_logits_give_a_finite_gradient(sharp, divergence):
    sharp.config.cpl = CPLConfig(coef=1.0, divergence=divergence, selection="all")
    batch = harness.prepared(sharp, harness.uneven_batch())
    update, stats = gradient(sharp, batch, "cpl")
    assert torch.isfinite(update).all() and update.norm() > 0
    assert stats[f"{CPL}/anchor_entropy"] == 0
    assert stats["cppo/skipped_micro_batches"] == 0


def test_equal_distributions_select_nothing(actor, batch):
    """A model that says the same whatever it sees: no gain, no loss, no gradient."""
    head = actor.model.lm_head.weight
    kept = head.detach().clone()
    with torch.no_grad():
        head.zero_()
    try:
        update, stats = gradient(actor, batch, "cpl")
    finally:
        with torch.no_grad():
            head.copy_(kept)
    assert stats[f"{CPL}/perception_tokens"] == 0
    assert torch.equal(update, torch.zeros_like(update))


@pytest.fixture(scope="module")
def half(model_folder):
    """An actor that computes in bf16 on fp32 master weights, as on a GPU."""
    return harness.make_actor(harness.actor_config(model_folder, dtype="bfloat16"))


def test_bf16(actor, half):
    """1 % between layouts; against fp32 what the policy loss allows itself, doubled.

    The random model is far sharper than a trained one: the policy gradient alone is 5 %
    off in bf16, CPL's 13 %.
    """
    batch = harness.prepared(actor, harness.uneven_batch())
    exact, _ = gradient(actor, batch, "cpl")
    updates = []
    for spec in (
        MicroBatchSpec(n_mbs=1),
        MicroBatchSpec(n_mbs=5),
        MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60),
    ):
        half.config.mb_spec = spec
        updates.append(gradient(half, batch, "cpl")[0])
    for update in updates[1:]:
        assert harness.relative_difference(update, updates[0]) < 1e-2
    assert harness.relative_difference(updates[0], exact) < 0.25
