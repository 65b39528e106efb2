"""Divergences of a view from the anchor where logits are equal, extreme or impossible.

Other values and gradients are in test_core_divergence.py.
"""

import math

import pytest
import torch

from areal_cppo.core import token_divergence
from tests.core.test_core_divergence import KINDS, draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
def test_equal_logits_give_exactly_zero(scale, dtype):
    logits, _, labels = draw(scale=scale)
    logits[:5, 3] = -math.inf  # a word that cannot occur, among them a label
    labels[0] = 3
    logits = logits.clamp(max=6e4).to(dtype)
    for kind in KINDS:
        anchor, view = (logits.clone().requires_grad_() for _ in range(2))
        value = token_divergence(anchor, view, labels, kind)
        value.sum().backward()
        assert (value == 0).all()
        if kind == "k1":  # its slope is 1 everywhere
            torch.testing.assert_close(anchor.grad, -view.grad)
            assert anchor.grad.abs().max() > 0 or scale == 1e4
        else:
            assert (anchor.grad == 0).all() and (view.grad == 0).all()


@pytest.mark.parametrize("kind", ["kl", "k2", "k3"])
def test_never_negative(kind):
    anchor, view, labels = draw(rows=200, scale=0.01)
    shifted = anchor + 5.0  # the same distribution up to rounding
    assert (token_divergence(anchor, view, labels, kind) >= 0).all()
    near = token_divergence(anchor, shifted, labels, kind)
    assert (near >= 0).all() and near.max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(kind, dtype):
    """Every pair of certain, impossible and uniform distributions, every label."""
    never = -math.inf
    rows = [
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 0.0],
        [-1e4, -1e4, -1e4],
        [0.0, 0.0, 1e4],
        [0.0, never, never],
        [never, 0.0, 1.0],
        [never, never, 1e4],
    ]
    pairs = [(a, b) for a in rows for b in rows]
    for label in range(3):
        anchor = torch.tensor([a for a, _ in pairs], dtype=dtype, requires_grad=True)
        view = torch.tensor([b for _, b in pairs], dtype=dtype, requires_grad=True)
        labels = torch.full((len(pairs),), label)
        value = token_divergence(anchor, view, labels, kind)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(anchor.grad).all() and torch.isfinite(view.grad).all()


def test_a_gradient_beyond_half_precision_keeps_its_sign():
    """k3's slope at r = -15 is -3.3e6, which fp16 cannot hold."""
    anchor = torch.tensor([[-15.0, 0.0]], dtype=torch.float16, requires_grad=True)
    view = torch.tensor([[15.0, 0.0]], dtype=torch.float16, requires_grad=True)
    token_divergence(anchor, view, torch.tensor([0]), "k3").sum().backward()
    limit = torch.finfo(torch.float16).max
    assert anchor.grad.tolist() == [[-limit, limit]]


def test_k3_holds_the_log_ratio_above_minus_twenty():
    """Beyond it value and gradient are flat; just inside they are not."""
    for far, flat in ((25.0, True), (19.0, False)):
        anchor = torch.tensor([[0.0, far]], requires_grad=True)
        view = torch.tensor([[far, 0.0]], requires_grad=True)
        value = token_divergence(anchor, view, torch.tensor([0]), "k3")
        value.sum().backward()
        held = min(far, 20.0)
        assert value.item() == pytest.approx(math.exp(held) - 1 - held, rel=1e-4)
        assert (anchor.grad[0, 0] == 0).item() == flat
        assert anchor.grad[0, 0] == 0 or anchor.grad[0, 0] < -1e8


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_a_label_that_cannot_occur_moves_only_the_other_branch(kind):
    """Its log-probability is a constant there, so it has no gradient."""
    anchor = torch.tensor([[-math.inf, 0.0, 1.0]], requires_grad=True)
    view = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    token_divergence(anchor, view, torch.tensor([0]), kind).sum().backward()
    assert (anchor.grad == 0).all()
    # r = -1e9: beyond what k3 looks at, and a slope of -1e9 for k2.
    assert (view.grad[0, 0] == 0) == (kind == "k3")
    assert torch.isfinite(view.grad).all()


def test_opposite_certainties_have_the_exact_kl():
    anchor, view = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert token_divergence(anchor, view, torch.tensor([0])).item() == 2e4


def test_words_that_cannot_occur_are_harmless():
    masked = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    view = torch.tensor([[1.0, 0.0, -math.inf]], requires_grad=True)
    value = token_divergence(masked, view, torch.tensor([0]))
    value.sum().backward()
    short = token_divergence(
        masked.detach()[:, :2], view.detach()[:, :2], torch.tensor([0])
    )
    torch.testing.assert_close(value.detach(), short)
    assert torch.isfinite(masked.grad).all() and masked.grad[0, 2] == 0
    assert torch.isfinite(view.grad).all() and view.grad[0, 2] == 0
