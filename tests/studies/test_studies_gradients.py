"""Moments of gradients, against gradients that are known."""

from __future__ import annotations

import pytest

from areal_cppo.studies.gradients import gradient_moments
from tests.step import harness


def test_moments_are_those_of_the_gradients(tmp_path):
    config = harness.actor_config(harness.make_model_folder(tmp_path / "model"))
    actor = harness.make_actor(config)
    one, other = harness.grouped_batch()[:7], harness.grouped_batch()[7:]
    before = [p.detach().clone() for p in actor.model.parameters()]
    found = gradient_moments(actor, [one, other])
    twice = gradient_moments(actor, [one, one])
    g, h = (
        harness.update_gradient(actor, harness.prepared(actor, batch))[0].double()
        for batch in (one, other)
    )
    # Of two, the variance is half the squared distance; their product is unbiased.
    variance = float((g - h).square().sum() / 2)
    expected = {"gradient_variance": variance, "gradient_square": float(g @ h)}
    assert found == pytest.approx(expected, rel=1e-3)
    assert twice["gradient_variance"] == pytest.approx(0, abs=1e-9 * float(g @ g))
    assert twice["gradient_square"] == pytest.approx(float(g @ g), rel=1e-3)
    for parameter, value in zip(actor.model.parameters(), before, strict=True):
        assert (parameter == value).all()
