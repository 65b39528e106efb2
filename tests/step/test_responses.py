"""`responses`: some of a group in place of all, through the real actor on one rank.

The mean over all that may be drawn is the gradient of all, exactly; and what is drawn
does not depend on layouts. Ranks are in test_actor_distributed.py, the draw itself in
tests/core/test_core_responses.py.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.core import CPLConfig, PAPOConfig, StalenessConfig
from areal_cppo.step import draw
from areal_cppo.step.batch import COUNTS
from areal_cppo.step.draw import draw_from_group
from tests.step import harness

UPDATE = "ppo_actor/update"
OPTIONS = {
    "sequence": {},
    "token": {"aggregation": "token"},
    "stale": {"staleness": StalenessConfig(importance_cap=2.0)},
    "all tokens, k3": {"selection": "all", "divergence": "k3", "grad": ["anchor"]},
    "PAPO": {"gamma": 1.0, "negative_grad": True, "eta2": 0.1},
    "PAPO, sequence": {"gamma": 1.0, "aggregation": "sequence"},
}


@pytest.fixture
def groups(actor):
    """Of 3, 3, 1 and, without an image, 2 responses; 1, 3, 1 and 1 with a positive
    advantage."""
    batch = [
        *harness.grouped_batch()[4:7],
        *harness.group(6, [7, 11, 4], [1.0, 1.0, 0.5], (4, 4), n_prompt=3),
        *harness.grouped_batch()[9:],
    ]
    return harness.in_groups(harness.prepared(actor, batch), (3, 3, 1, 2))


@pytest.fixture
def update(actor):
    """Gradient, without the policy's, and statistics."""
    default = actor.config.papo

    def update(items, name, most):
        config, options = actor.config, OPTIONS[name] | {"responses": most}
        if name.startswith("PAPO"):
            config.objective, config.papo = "papo", PAPOConfig(**options)
            items = [item | {"advantages": 0 * item["advantages"]} for item in items]
        else:
            config.objective, config.cpl = "cpl", CPLConfig(coef=1.0, **options)
        return harness.update_gradient(actor, items)

    yield update
    actor.config.papo = default


def all_draws(name: str, most: int):
    """What may be drawn of `groups`: numbers of responses, group by group."""
    gated = [range(3), range(3), range(1), ()]
    if not name.startswith("PAPO"):
        gated[0] = (1,)
    return product(*(combinations(own, min(most, len(own))) for own in gated))


@pytest.mark.parametrize(
    ("name", "most"), [*((name, 1) for name in OPTIONS), ("sequence", 2), ("token", 2)]
)
def test_the_mean_over_all_draws_is_the_gradient_of_all(
    update, groups, monkeypatch, name, most
):
    expected, of_all = update(groups, name, None)
    left = iter(())

    def choose(gated, tokens, most, **_):
        own, passed = list(next(left)), int(gated.sum())
        assert len(own) == min(most, passed) and gated[own].all()
        weights = torch.zeros(len(gated))
        weights[own] = passed / max(len(own), 1)
        return weights

    monkeypatch.setattr(draw, "draw_responses", choose)
    scope, gradients = "papo" if name.startswith("PAPO") else "cpl", []
    for draws in all_draws(name, most):
        left = iter(draws)
        gradient, stats = update(groups, name, most)
        gradients.append(gradient)
        count = f"{UPDATE}/{scope}/gated_responses"
        assert stats[count] == of_all[count] > sum(map(len, draws))
        assert stats[f"{UPDATE}/{scope}/view_sequences"] == sum(map(len, draws))
    assert len(gradients) >= 3
    assert harness.relative_difference(gradients[0], expected) > 0.01
    mean = torch.stack(gradients).mean(0)
    assert harness.relative_difference(mean, expected) < 1e-5


@pytest.mark.parametrize("name", ["sequence", "token", "PAPO"])
def test_layouts_do_not_matter(actor, update, groups, name):
    """Micro-batches, the order of groups and within them, and what `speed` may do."""
    apart = [one for item in groups for one in split(item)]
    turned = harness.in_groups([*apart[2::-1], *apart[3:]], (3, 3, 1, 2))
    layouts = [
        (MicroBatchSpec(n_mbs=7), groups),
        (MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60), [*turned[1:], turned[0]]),
    ]
    actor.set_version(1)
    gradient, stats = update(groups, name, 1)
    for spec, items in layouts:
        actor.config.mb_spec = spec
        other, others = update(items, name, 1)
        assert harness.relative_difference(other, gradient) < 1e-5
        assert others.keys() == stats.keys()
    actor.config.speed.gate_first = False
    try:
        other, _ = update(groups, name, 1)
    finally:
        actor.config.speed.gate_first = True
    assert harness.relative_difference(other, gradient) < 1e-5


def split(item: dict) -> list[dict]:
    """The responses of a group, an item each, padded as they are."""
    return [
        {key: value[i : i + 1] for key, value in item.items()}
        for i in range(len(item["input_ids"]))
    ]


def test_a_group_that_mini_batches_tear_is_drawn_from_once(actor, update, groups):
    actor.config.ppo_n_minibatches = 3
    try:
        _, stats = update(groups, "sequence", 1)
    finally:
        actor.config.ppo_n_minibatches = 1
    assert stats[f"{UPDATE}/cpl/gated_responses"] == 5
    assert stats[f"{UPDATE}/cpl/view_sequences"] == 3


def test_only_drawn_responses_enter_the_views(actor, groups):
    """One, with its prompt, of each of three groups."""
    actor.config.cpl = CPLConfig(coef=1.0, responses=1)
    tokens = []
    layer = actor.model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(
        lambda _, args: tokens.append(args[0].shape[1])
    )
    try:
        harness.update_gradient(actor, groups)
    finally:
        handle.remove()
    drawn = [
        draw_from_group(item, "positive_advantage", 1, 1, 0)[COUNTS][:, 0].argmax()
        for item in groups[:3]
    ]
    lengths = [int(item["attention_mask"][i].sum()) for item, i in zip(groups, drawn)]
    expected = sum(lengths)
    assert tokens[:2] == [expected, expected]


def test_fewer_gated_than_asked_for_change_nothing(update, groups):
    for name in ("sequence", "PAPO"):
        expected, stats = update(groups, name, None)
        gradient, others = update(groups, name, 3)
        assert torch.equal(gradient, expected)
        assert others.keys() == stats.keys()
