"""Packed rows through the real actor: sequences see themselves only.

Covers log-probs and the policy-loss gradient, packed against alone and against plain
transformers. CPL is in test_actor_cpl.py.
"""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.step.actor import block_diagonal_causal_mask
from tests.step import harness, naive

ONE_ROW = MicroBatchSpec(n_mbs=1)
ONE_EACH = MicroBatchSpec(n_mbs=5)
BY_TOKENS = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_mask_is_causal_within_sequences_only(lengths):
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    total = sum(lengths)
    mask = block_diagonal_causal_mask(bounds, total)[0, 0]
    owner = [i for i, n in enumerate(lengths) for _ in range(n)]
    for query in range(total):
        for key in range(total):
            expected = owner[query] == owner[key] and key <= query
            assert bool(mask[query, key]) == expected


def response_part(item, logprobs) -> torch.Tensor:
    n = naive.n_response(item)
    return logprobs[0, -n - 1 : -1]


@pytest.mark.parametrize("spec", [ONE_ROW, ONE_EACH, BY_TOKENS])
def test_logprobs_equal_plain_transformers(actor, model_folder, spec):
    actor.config.mb_spec = spec
    batch = harness.uneven_batch()
    packed = actor.compute_logp([dict(item) for item in batch])
    model = naive.load(model_folder)
    for item, logprobs in zip(batch, packed, strict=True):
        with torch.no_grad():
            expected = naive.logprobs(model, item)
        torch.testing.assert_close(
            response_part(item, logprobs), expected, rtol=0, atol=1e-5
        )


def test_policy_gradient_packed_equals_alone(actor):
    actor.config.objective = "grpo"
    batch = harness.prepared(actor, harness.uneven_batch())
    gradients = []
    for spec in (ONE_EACH, ONE_ROW, BY_TOKENS):
        actor.config.mb_spec = spec
        gradients.append(harness.update_gradient(actor, batch)[0])
    assert gradients[0].norm() > 0.1
    for gradient in gradients[1:]:
        assert harness.relative_difference(gradient, gradients[0]) < 1e-5


def test_more_images_than_columns(actor):
    """Many short responses: transformers alone runs out of time steps here."""
    short = [harness.trajectory(i, 2, 1.0, (2, 2), n_prompt=1) for i in range(12)]
    assert short[0]["input_ids"].shape[1] < len(short)
    together = actor.compute_logp([dict(item) for item in short])
    for item, logprobs in zip(short, together, strict=True):
        alone = actor.compute_logp([dict(item)])[0]
        torch.testing.assert_close(
            response_part(item, logprobs), response_part(item, alone), rtol=0, atol=1e-5
        )
