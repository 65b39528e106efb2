"""Digits: log-probabilities, KL and entropy over a vocabulary of 151,936 words.

Covers values and gradients against double precision, from next to equal distributions
to far ones and from flat to next to certain; what half precision is summed in; what is
kept for the backward pass. Extreme and impossible logits are in
test_core_divergence_extremes.py.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from areal_cppo.core import score_tokens, token_divergence, token_entropy
from areal_cppo.core.divergence import sampled_kl
from areal_cppo.core.precision import (
    _LogSoftmax,
    log_probs,
    row_entropy,
    row_kl,
    single,
)

WORDS, ROWS = 151_936, 3
LABELS = torch.zeros(ROWS, dtype=torch.long)
HALVES = [torch.bfloat16, torch.float16]


def draw(dtype, lead, step):
    """Logits of an anchor whose first word leads by `lead`, and of a view near it."""
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(ROWS, WORDS, generator=generator) * 2
    anchor[:, 0] = anchor.amax(-1) + torch.tensor([0.0, lead / 2, lead])
    view = anchor + torch.randn(ROWS, WORDS, generator=generator) * step
    return anchor.to(dtype), view.to(dtype)


def exact(logits):
    """Log-probabilities in double precision, also of what is next to certain."""
    x = logits.double()
    x = x - x.amax(-1, keepdim=True)
    others = x.exp().scatter(-1, x.argmax(-1, keepdim=True), 0.0)
    return x - torch.log1p(others.sum(-1, keepdim=True))


def exact_kl(log_p, log_q):
    """Each term as what it is above 0: no sum of large numbers of either sign."""
    d = log_p - log_q
    near = log_p.exp() * (torch.expm1(-d) + d)
    far = log_q.exp() - log_p.exp() + log_p.exp() * d
    return torch.where(d.abs() < 1, near, far).sum(-1)


def exact_entropy(log_p):
    log_top, at = log_p.max(-1, keepdim=True)
    others = (log_p.exp() * (1 - log_p)).scatter(-1, at, 0.0).sum(-1)
    return others + (torch.expm1(log_top) - log_top * log_top.exp()).squeeze(-1)


CASES = pytest.mark.parametrize(
    ("lead", "step"), [(0, 1e-4), (0, 0.01), (8, 1.0), (8, 5.0), (30, 1e-3), (30, 1.0)]
)


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_keep_their_digits(dtype, lead, step):
    anchor, view = draw(dtype, lead, step)
    log_p, log_q = exact(anchor), exact(view)
    found = score_tokens(anchor, view)
    kl, entropy = exact_kl(log_p, log_q), exact_entropy(log_p)
    assert (kl > 0).all()
    torch.testing.assert_close(found.divergence.double(), kl, rtol=5e-6, atol=2e-9)
    torch.testing.assert_close(
        found.anchor_entropy.double(), entropy, rtol=3e-6, atol=0
    )
    got = log_probs(anchor).double()
    torch.testing.assert_close(got, log_p, rtol=5e-7, atol=1e-6)


@CASES
def test_gradients_keep_their_digits(lead, step):
    anchor, view = (x.requires_grad_() for x in draw(torch.float32, lead, step))
    kl = token_divergence(anchor, view, LABELS).sum()
    entropy = token_entropy(anchor).sum()
    found = [*torch.autograd.grad(kl, (anchor, view))]
    found += torch.autograd.grad(entropy, anchor)
    with torch.no_grad():
        p, q = (log_p := exact(anchor)).exp(), (log_q := exact(view)).exp()
        d = log_p - log_q
        expected = [p * (d - exact_kl(log_p, log_q)[:, None]), q - p]
        expected.append(-p * (log_p + exact_entropy(log_p)[:, None]))
        for mine, theirs in zip(found, expected):
            error = (mine.double() - theirs).norm(dim=-1)
            assert (error <= 1e-5 * theirs.norm(dim=-1) + 1e-8).all()
            assert (mine.double().sum(-1).abs() < 1e-5).all()


def test_small_dependencies_are_told_apart():
    """Four views, each further by a tenth: 5e-9 nats, and a noise of 1e-6 before."""
    anchor, view = draw(torch.float32, 0, 1e-4)
    steps = torch.tensor([1.0, 1.1, 1.2, 1.3])
    views = anchor[:1] + (view - anchor)[:1] * steps[:, None]
    kl = token_divergence(anchor[:1].expand(4, -1), views, torch.zeros(4))
    torch.testing.assert_close(kl / kl[0], steps**2, rtol=0.01, atol=0)


@given(st.integers(0, 2**31), st.sampled_from([1e-7, 1e-4, 0.1, 10.0, 1e3]))
def test_never_negative(seed, step):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 11, generator=generator) * 20
    logits[torch.rand(4, 11, generator=generator) < 0.2] = -math.inf
    logits[:, 0] = 1.0  # one word at least can occur
    other = logits + torch.randn(4, 11, generator=generator) * step
    other[torch.rand(4, 11, generator=generator) < 0.1] = -math.inf
    other[:, 0] = 1.0
    log_p, log_q = log_probs(logits), log_probs(other)
    found = row_kl(log_p, log_q)
    assert (found >= 0).all() and (row_entropy(log_p) >= 0).all()
    expected = exact_kl(log_p.double(), log_q.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    ratio = torch.randn(1000, generator=generator) * step
    assert (sampled_kl(ratio) >= 0).all()


def test_gradients_in_double_precision():
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(_LogSoftmax.apply, x)
    assert gradcheck(lambda x: row_entropy(torch.log_softmax(x, -1)), x)
    torch.testing.assert_close(_LogSoftmax.apply(x), torch.log_softmax(x, -1))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_logit_spoils_its_row_alone(broken):
    logits = torch.tensor([[0.0, broken, 1.0], [0.0, 1.0, 2.0], [-math.inf] * 3])
    found = log_probs(logits)
    assert found[0].isnan().all() and found[2].isnan().all()
    torch.testing.assert_close(found[1], torch.log_softmax(logits[1], -1))


@pytest.mark.parametrize(("function", "wide"), [(log_probs, 1), (token_entropy, 3)])
def test_little_is_kept_for_the_backward_pass(function, wide):
    """Log-probabilities before their floor; of an entropy also after it, and p."""
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.add((x.data_ptr(), x.numel())) or x, lambda x: x
    ):
        found = function(torch.randn(5, 9).bfloat16().requires_grad_())
    found.sum().backward()
    assert sum(size == 5 * 9 for _, size in kept) == wide


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_halves_are_summed_in_single(dtype):
    wide = torch.float32 if dtype in HALVES else dtype
    assert single(torch.zeros(2, dtype=dtype)).dtype == wide
    ratio = torch.tensor([-15.0, 0.0, 1.0], dtype=dtype)  # exp(15) is beyond fp16
    found = sampled_kl(ratio)
    assert found.dtype == wide
    expected = [math.exp(15) - 16, 0.0, math.exp(-1)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=wide))
