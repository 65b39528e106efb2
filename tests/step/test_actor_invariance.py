"""Loss and gradient do not depend on how a batch is laid out, on one rank.

Covers packing, micro-batches, order and padding, for every kind of option; bf16 within
a tolerance. Ranks are in test_actor_distributed.py, gradient checkpointing in
test_actor_families.py.
"""

from __future__ import annotations

import functools

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.step import harness

OPTIONS = {
    "default": {},
    "token mean": {"aggregation": "token"},
    "k3, floor": {"divergence": "k3", "quota": "floor"},
    "random tokens": {"selection": "random"},
    "all tokens, no gate": {"selection": "all", "gate": "none"},
    "floor on the gain": {"min_gain": 0.005, "aggregation": "token"},
    "anchor only": {"grad": ["anchor"]},
}
KEYS = ("loss", "margin", "entropy_gain", "perception_tokens", "view_sequences")


def batch() -> list[dict]:
    """Seven responses: uneven, several images in one, one without an image."""
    return [
        *harness.uneven_batch(),
        harness.trajectory(7, 14, 1.0, (4, 4), (2, 6)),
        harness.text_only(harness.trajectory(8, 10, 1.0)),
    ]


def update(actor, items):
    """Gradient of an update with CPL alone, and what is recorded of it."""
    actor.config.objective = "cpl"
    gradient, stats = harness.update_gradient(actor, items)
    return gradient, {key: stats[f"ppo_actor/update/cpl/{key}"] for key in KEYS}


def assert_same(one, other):
    assert one[0].norm() > 0.01
    assert harness.relative_difference(other[0], one[0]) < 1e-5
    assert other[1] == pytest.approx(one[1], rel=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "spec",
    [MicroBatchSpec(n_mbs=7), MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60)],
    ids=["one per row", "split"],
)
def test_micro_batches(actor, configure, options, spec):
    configure(**options)
    items = harness.prepared(actor, batch())
    one_row = update(actor, items)
    actor.config.mb_spec = spec
    assert_same(one_row, update(actor, items))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_order(actor, configure, options):
    """Responses, and so images, in another order of the batch."""
    configure(**options)
    items = harness.prepared(actor, batch())
    in_order = update(actor, items)
    shuffled = [items[i] for i in (6, 3, 0, 5, 4, 1, 2)]
    assert_same(in_order, update(actor, shuffled))


def padded(item: dict, columns: int) -> dict:
    """The response with empty columns on its right."""
    return {
        key: torch.nn.functional.pad(value, (0, columns))
        if torch.is_tensor(value) and value.ndim == 2
        else value
        for key, value in item.items()
    }


def test_padding(actor):
    items = harness.prepared(actor, batch())
    tight = update(actor, items)
    assert_same(tight, update(actor, [padded(item, 13) for item in items]))
    actor.config.mb_spec = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=700)
    actor.config.pad_to_maximum = True
    try:
        assert_same(tight, update(actor, items))
    finally:
        actor.config.pad_to_maximum = False


@functools.cache
def reference(actor):
    items = harness.prepared(actor, batch())
    return items, update(actor, items)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(7)),
    tokens=st.integers(45, 250),
    columns=st.integers(0, 9),
)
def test_any_layout(actor, order, tokens, columns):
    actor.config.mb_spec = MicroBatchSpec(n_mbs=1)
    items, one_row = reference(actor)
    actor.config.mb_spec = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=tokens)
    assert_same(one_row, update(actor, [padded(items[i], columns) for i in order]))
