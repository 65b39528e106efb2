"""CPL through the real actor, against the naive reference; what it costs; routing.

Covers one rank. Two ranks are in test_actor_distributed.py; the functions themselves in
tests/core.
"""

from __future__ import annotations

import harness
import naive
import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

import areal_cppo.training.perception as perception

BRANCHES = ("anchor", "positive", "negative")


@pytest.fixture
def batch(actor):
    return harness.prepared(actor, harness.uneven_batch())


def cpl_gradient(actor, batch):
    actor.config.objective = "cpl"
    return harness.update_gradient(actor, batch)


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize("grad", [BRANCHES, ("anchor",), ("positive", "negative")])
def test_gradient_equals_naive(
    actor, configure, batch, model_folder, aggregation, grad
):
    configure(aggregation=aggregation, grad=list(grad))
    gradient, stats = cpl_gradient(actor, batch)
    model = naive.load(model_folder)
    loss, counts = naive.cpl(model, batch, grad=grad, aggregation=aggregation)
    assert sum(counts) == stats["ppo_actor/update/cpl/perception_tokens"]
    reference = naive.gradient(model, loss)
    assert reference.norm() > 0
    assert harness.relative_difference(gradient, reference) < 1e-4


def test_sampled_divergence_is_of_the_token_that_was_sampled(
    actor, configure, batch, model_folder
):
    """The full KL needs no label; k3 does, and it has to be the right one."""
    configure(divergence="k3")
    gradient, _ = cpl_gradient(actor, batch)
    model = naive.load(model_folder)
    loss, _ = naive.cpl(model, batch, divergence="k3")
    reference = naive.gradient(model, loss)
    assert harness.relative_difference(gradient, reference) < 1e-4


def test_objectives_add_up(actor, batch):
    gradients = {}
    for objective in ("cppo", "grpo", "cpl"):
        actor.config.objective = objective
        gradients[objective] = harness.update_gradient(actor, batch)[0]
    total = gradients["grpo"] + gradients["cpl"]
    assert harness.relative_difference(total, gradients["cppo"]) < 1e-5


@pytest.mark.parametrize(
    "spec",
    [MicroBatchSpec(n_mbs=3), MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60)],
)
@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_micro_batching_changes_nothing(actor, configure, batch, spec, aggregation):
    configure(aggregation=aggregation)
    one_row, _ = cpl_gradient(actor, batch)
    actor.config.mb_spec = spec
    split, _ = cpl_gradient(actor, batch)
    assert harness.relative_difference(split, one_row) < 1e-5


class Counted:
    """Counts views and the images in them."""

    def __init__(self, monkeypatch):
        self.images: dict[str, list[int]] = {"positive": [], "negative": []}
        original = perception.perturb_pixel_values

        def counting(pixel_values, image_grid_thw, *args, kind, **kwargs):
            self.images[kind].append(len(image_grid_thw))
            return original(pixel_values, image_grid_thw, *args, kind=kind, **kwargs)

        monkeypatch.setattr(perception, "perturb_pixel_values", counting)


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
    text = harness.trajectory(7, 10, 1.0)
    keep = text["mm_token_type_ids"][0] == 0
    for key, value in text.items():
        if torch.is_tensor(value) and value.ndim == 2:
            text[key] = value[:, keep]
    text["multi_modal_input"] = [{}]
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
