"""Responses that were sampled from another image than they are trained on, through the
real actor: they are weighed as if the proximal policy had sampled them."""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import RejectionSamplingConfig

from areal_cppo.config.augmentation import UNLIKE
from areal_cppo.core import CPLConfig
from tests.step import harness


@pytest.mark.parametrize("objective", ["grpo", "cppo"])
@pytest.mark.parametrize("reuses", [True, False], ids=["own pass", "pass before"])
def test_their_importance_weight_is_one(actor, objective, reuses, monkeypatch):
    config = actor.config
    recipes = RejectionSamplingConfig(metric="ratio", upper=5.0)
    monkeypatch.setattr(config, "rejection_sampling", recipes)
    config.objective, config.cpl = objective, CPLConfig(coef=1.0)
    groups = harness.in_groups(harness.prepared(actor, harness.grouped_batch()))
    for group in groups:
        unlike = torch.zeros_like(group["versions"])
        unlike[::2] = 1
        group[UNLIKE] = unlike
    expected = []
    for group in groups:
        known = {key: value for key, value in group.items() if key != UNLIKE}
        known["logprobs"] = group["logprobs"].clone()
        known["logprobs"][::2] = group["prox_logp"][::2]
        expected.append(known)
    if reuses:
        assert config.reuses_proximal
        for group in (*groups, *expected):
            del group["prox_logp"]
    gradient, _ = harness.update_gradient(actor, groups)
    reference, _ = harness.update_gradient(actor, expected)
    other, _ = harness.update_gradient(
        actor, [{k: v for k, v in g.items() if k != UNLIKE} for g in groups]
    )
    assert harness.relative_difference(gradient, reference) < 1e-6
    assert harness.relative_difference(gradient, other) > 1e-3
