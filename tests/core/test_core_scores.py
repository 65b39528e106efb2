"""Entropy, entropy gain, the scores of gated tokens and the floor on the rise.

Covers closed forms, a double-precision loop, chunks, extreme and non-finite logits.
What is made of the scores is in test_core_selection.py, how much memory they take in
test_core_memory.py.
"""

import math

import pytest
import torch

from areal_cppo.core import (
    entropy_gain,
    entropy_rise,
    rise_eligible,
    score_tokens,
    token_divergence,
    token_entropy,
)


def test_entropy_closed_forms():
    uniform = torch.zeros(1, 123)
    two = torch.tensor([[math.log(3.0), 0.0]])  # p = 3/4, 1/4
    assert token_entropy(uniform).item() == pytest.approx(math.log(123), rel=1e-6)
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert token_entropy(two).item() == pytest.approx(by_hand, rel=1e-6)
    # Temperature 0.5 squares the odds: p = 9/10, 1/10.
    by_hand = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert token_entropy(two, temperature=0.5).item() == pytest.approx(
        by_hand, rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entropy_equals_a_double_precision_loop(dtype):
    logits = (torch.randn(47, 31, generator=torch.Generator().manual_seed(2)) * 4).to(
        dtype
    )
    entropy = token_entropy(logits, temperature=0.7, chunk_size=5)
    assert entropy.dtype == torch.float32 and entropy.shape == (47,)
    for row, value in zip(logits.double().tolist(), entropy.tolist()):
        weights = [math.exp(z / 0.7) for z in row]
        total = sum(weights)
        expected = -sum(w / total * math.log(w / total) for w in weights)
        assert value == pytest.approx(expected, abs=1e-5)


def test_entropy_does_not_depend_on_chunks():
    logits = torch.randn(13, 7, generator=torch.Generator().manual_seed(3))
    whole = token_entropy(logits)
    for chunk_size in (1, 4, 13, 100):
        assert torch.equal(token_entropy(logits, chunk_size=chunk_size), whole)
    assert token_entropy(logits[:0]).shape == (0,)


def test_entropy_and_its_gradient_stay_finite():
    logits = torch.tensor(
        [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 0.0, -math.inf]],
        requires_grad=True,
    )
    entropy = token_entropy(logits)
    torch.testing.assert_close(
        entropy, torch.tensor([0.0, math.log(3), math.log(2)]), atol=1e-6, rtol=0
    )
    entropy.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_entropy_gradient_is_the_closed_form():
    # dH/dz = -p (log p + H)
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    logits.requires_grad_()
    token_entropy(logits, chunk_size=2).sum().backward()
    log_p = torch.log_softmax(logits.detach(), -1)
    entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    torch.testing.assert_close(logits.grad, -log_p.exp() * (log_p + entropy))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.zeros(3)}, "logits: expected shape"),
        ({"temperature": 0.0}, "temperature: expected a number > 0"),
        ({"chunk_size": 0}, "chunk_size: expected an integer >= 1"),
    ],
)
def test_entropy_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        token_entropy(**({"logits": torch.zeros(2, 3)} | arguments))


def test_gain_closed_form():
    anchor = torch.tensor([1.0, 2.0, 1.5, 0.0, 0.0])
    negative = torch.tensor([2.0, 1.0, 1.5, 3.0, 0.0])
    gain = entropy_gain(anchor, negative)
    expected = torch.tensor([1 / (2 + 1e-6), 0.0, 0.0, 3 / (3 + 1e-6), 0.0])
    torch.testing.assert_close(gain, expected)
    assert gain[1] == gain[2] == gain[4] == 0
    with pytest.raises(ValueError, match="negative_entropy: expected shape"):
        entropy_gain(anchor, negative[:2])


def test_rise_closed_form_and_where_it_ranks_otherwise():
    """A token next to certain under both views has the largest gain, and no rise."""
    anchor = torch.tensor([1.0, 2.0, 1e-5])
    negative = torch.tensor([2.0, 1.0, 2e-4])
    rise = entropy_rise(anchor, negative)
    torch.testing.assert_close(rise, torch.tensor([1.0, 0.0, 1.9e-4]))
    assert entropy_gain(anchor, negative).argmax() == 2 and rise.argmax() == 0
    with pytest.raises(ValueError, match="negative_entropy: expected shape"):
        entropy_rise(anchor, negative[:2])


def draw(rows, words=31, dtype=torch.float32):
    """Logits of the anchor's and of the negative view's pass."""
    generator = torch.Generator().manual_seed(5)
    anchor = torch.randn(rows, words, generator=generator) * 3
    negative = torch.randn(rows, words, generator=generator) * 2
    return anchor.to(dtype), negative.to(dtype)


def test_scores_worked_example():
    # First p = (3/4, 1/4), q = (1/2, 1/2); then p = q = (1/2, 1/2).
    anchor = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    got = score_tokens(anchor, torch.zeros(2, 2))
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(got.anchor_entropy, torch.tensor([h, math.log(2)]))
    torch.testing.assert_close(got.negative_entropy, torch.full((2,), math.log(2)))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    torch.testing.assert_close(got.divergence, torch.tensor([kl, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_the_entropies_and_the_divergence(dtype):
    """Bit for bit."""
    anchor, negative = draw(7, dtype=dtype)
    anchor.requires_grad_()
    got = score_tokens(anchor, negative, 0.7)
    labels = torch.zeros(7, dtype=torch.long)
    assert torch.equal(got.anchor_entropy, token_entropy(anchor, 0.7))
    assert torch.equal(got.negative_entropy, token_entropy(negative, 0.7))
    kl = token_divergence(anchor, negative, labels, "kl", 0.7)
    assert torch.equal(got.divergence, kl)
    assert not any(x.requires_grad for x in got)
    assert all(x.dtype == torch.float32 for x in got)


def test_scores_of_no_token():
    assert all(x.shape == (0,) for x in score_tokens(*draw(0)))


def test_scores_of_extreme_logits_are_finite_and_of_broken_ones_are_not():
    anchor = torch.tensor(
        [[1e4, -1e4], [-math.inf, 0.0], [0.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]]
    )
    negative = torch.tensor([[-1e4, 1e4], [0.0, -math.inf], [0.0, 0.0], [0.0, 0.0]])
    fine = score_tokens(anchor[:3], negative[:3])
    assert all(torch.isfinite(x).all() for x in fine)
    assert fine.divergence[0] == 2e4 and fine.divergence[2] == 0
    broken = score_tokens(anchor[3:], negative[2:])
    assert not torch.isfinite(broken.anchor_entropy).any()
    assert not torch.isfinite(broken.divergence).any()
    assert torch.isfinite(broken.negative_entropy).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor_logits": torch.zeros(3)}, "anchor_logits: expected shape"),
        ({"negative_logits": torch.zeros(3, 4)}, "negative_logits: expected shape .2"),
        ({"negative_logits": torch.zeros(2, 5)}, "negative_logits: expected shape .2"),
        ({"temperature": 0.0}, "temperature: expected a number > 0"),
    ],
)
def test_scores_refusals(change, message):
    arguments = {
        "anchor_logits": torch.zeros(2, 4),
        "negative_logits": torch.zeros(2, 4),
    }
    with pytest.raises(ValueError, match=message):
        score_tokens(**(arguments | change))


def test_rise_worked_example():
    # A floor of a quarter of log 16 is log 2 = .693 nats; falls are never enough.
    anchor = torch.tensor([0.0, 0.0, 1.0, 2.0, 1.0, 0.5])
    negative = torch.tensor([0.68, 0.70, 1.70, 0.0, 1.0, 4.0])
    enough = rise_eligible(anchor, negative, 0.25, 16)
    assert enough.tolist() == [False, True, True, False, False, True]


def test_without_a_floor_every_finite_token_may_be_selected():
    """Also where entropy falls: the random and the full control need those."""
    anchor = torch.tensor([0.0, 2.0, 1.0, math.nan, math.inf, 0.0, math.inf])
    negative = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, math.nan, math.inf])
    finite = [True] * 3 + [False] * 4
    assert rise_eligible(anchor, negative, 0.0, 100).tolist() == finite
    assert not rise_eligible(anchor, negative, 1e-3, 100)[3:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_gain": -0.1}, "min_gain: expected a number in .0, 1."),
        ({"min_gain": 1.1}, "min_gain: expected a number in .0, 1."),
        ({"min_gain": math.nan}, "min_gain: expected a number in .0, 1."),
        ({"vocabulary": 1}, "min_gain: .* a vocabulary >= 2, found 0.5 and 1"),
        ({"negative_entropy": torch.zeros(2)}, "negative_entropy: expected shape"),
    ],
)
def test_rise_refusals(change, message):
    arguments = {
        "anchor_entropy": torch.zeros(3),
        "negative_entropy": torch.zeros(3),
        "min_gain": 0.5,
        "vocabulary": 10,
    }
    with pytest.raises(ValueError, match=message):
        rise_eligible(**(arguments | change))
