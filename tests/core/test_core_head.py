"""The output head read in chunks: the numbers and gradients of the whole logits.

Covers statistics, scores and divergences, gradient routing, no rows, refusals, and that
no more than a chunk of logits is alive. Peak memory at full scale is in
test_core_memory.py.
"""

from __future__ import annotations

import pytest
import torch

from areal_cppo.core import (
    hidden_entropy,
    score_hidden,
    score_tokens,
    token_divergence,
    token_entropy,
    token_statistics,
    view_divergence,
    view_divergences,
)

WORDS, WIDTH = 31, 7


def draw(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator)


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(WORDS, WIDTH, generator=generator).requires_grad_()
    return Head(weight)


class Head:
    """A projection that notes how many rows it was asked for."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight
        self.rows: list[int] = []

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(hidden))
        return hidden @ self.weight.T


def labels_of(rows: int) -> torch.Tensor:
    return torch.arange(rows) * 5 % WORDS


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, allow_unused=True)


@pytest.mark.parametrize("chunk_size", [1, 4, 13, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_statistics_are_those_of_the_whole_logits(head, chunk_size, temperature):
    hidden, labels = draw(13).requires_grad_(), labels_of(13)
    got = token_statistics(hidden, head, labels, temperature, chunk_size)
    logits = hidden @ head.weight.T
    log_p = torch.log_softmax(logits / temperature, -1)
    logprobs = log_p[range(13), labels]
    torch.testing.assert_close(got.logprobs, logprobs)
    torch.testing.assert_close(got.entropy, token_entropy(logits, temperature))
    torch.testing.assert_close(got.lowest, logits.min(-1).values)
    torch.testing.assert_close(got.highest, logits.max(-1).values)
    assert not any(x.requires_grad for x in got[1:])
    weights = torch.linspace(-1, 2, 13)
    mine = gradients((got.logprobs * weights).sum(), hidden, head.weight)
    theirs = gradients((logprobs * weights).sum(), hidden, head.weight)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_statistics_in_half_precision_are_reduced_in_single(head):
    hidden = draw(5).bfloat16()
    weight = head.weight.detach().bfloat16()
    got = token_statistics(hidden, lambda rows: rows @ weight.T, labels_of(5))
    assert all(x.dtype == torch.float32 for x in got)
    logits = (hidden @ weight.T).float()
    expected = torch.log_softmax(logits, -1)[range(5), labels_of(5)]
    torch.testing.assert_close(got.logprobs, expected)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_scores_are_those_of_the_whole_logits(head, chunk_size):
    anchor, negative = draw(9).requires_grad_(), draw(9, seed=1)
    got = score_hidden(anchor, negative, head, 0.7, chunk_size)
    expected = score_tokens(anchor @ head.weight.T, negative @ head.weight.T, 0.7)
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y)
        assert not x.requires_grad


BRANCHES = ("anchor", "positive", "negative")


@pytest.mark.parametrize("kind", ["kl", "k1", "k2", "k3"])
@pytest.mark.parametrize("grad", [BRANCHES, *((b,) for b in BRANCHES), ()])
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_divergences_are_those_of_the_whole_logits(head, kind, grad, chunk_size):
    hidden = [draw(5, seed).requires_grad_() for seed in range(3)]
    labels = labels_of(5)
    got = view_divergences(*hidden, head, labels, kind, 0.7, grad, chunk_size)
    logits = [
        h @ head.weight.T if name in grad else (h @ head.weight.T).detach()
        for name, h in zip(BRANCHES, hidden)
    ]
    expected = [
        token_divergence(logits[0], view, labels, kind, 0.7) for view in logits[1:]
    ]
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y)
    if not grad:
        assert not any(x.requires_grad for x in got)
        return
    inputs, weights = (*hidden, head.weight), torch.linspace(-1, 2, 5)
    mine, theirs = (
        gradients((near * weights + far * weights.flip(0)).sum(), *inputs)
        for near, far in (got, expected)
    )
    for name, x, y in zip((*BRANCHES, "head"), mine, theirs):
        if name not in (*grad, "head"):
            assert x is None and y is None
        else:
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6 * float(y.norm()))


@pytest.mark.parametrize("kind", ["kl", "k3"])
@pytest.mark.parametrize("grad", [("anchor", "negative"), ("anchor",), ("negative",)])
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_one_view_alone_is_the_same(head, kind, grad, chunk_size):
    anchor, negative = (draw(5, seed).requires_grad_() for seed in (0, 2))
    labels, inputs = labels_of(5), (anchor, negative, head.weight)
    alone = view_divergence(anchor, negative, head, labels, kind, 0.7, grad, chunk_size)
    _, among = view_divergences(
        anchor, draw(5, seed=1), negative, head, labels, kind, 0.7, grad
    )
    torch.testing.assert_close(alone, among)
    weights = torch.linspace(-1, 2, 5)
    mine, theirs = (
        gradients((found * weights).sum(), *inputs) for found in (alone, among)
    )
    for x, y in zip(mine, theirs, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_entropy_is_that_of_the_whole_logits(head, chunk_size):
    hidden = draw(9).requires_grad_()
    weights = torch.linspace(-1, 2, 9)
    found = hidden_entropy(hidden, head, 0.7, chunk_size)
    expected = token_entropy(hidden @ head.weight.T, 0.7)
    torch.testing.assert_close(found, expected)
    mine = gradients((found * weights).sum(), hidden, head.weight)
    theirs = gradients((expected * weights).sum(), hidden, head.weight)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_no_rows_of_one_view_still_lead_back(head):
    anchor, negative = (draw(0).requires_grad_() for _ in range(2))
    divergence = view_divergence(anchor, negative, head, labels_of(0))
    entropy = hidden_entropy(negative, head)
    logprobs = token_statistics(anchor, head, labels_of(0)).logprobs
    assert len(divergence) == len(entropy) == len(logprobs) == 0
    total = divergence.sum() + entropy.sum() + logprobs.sum()
    found = gradients(total, anchor, negative, head.weight)
    assert all(x is not None and (x == 0).all() for x in found)


def test_no_rows_still_lead_back(head):
    hidden = [draw(0).requires_grad_() for _ in range(3)]
    to_positive, to_negative = view_divergences(*hidden, head, labels_of(0))
    assert len(to_positive) == len(to_negative) == 0
    found = gradients(to_positive.sum() + to_negative.sum(), *hidden, head.weight)
    assert all(x is not None and (x == 0).all() for x in found)
    assert all(len(x) == 0 for x in score_hidden(draw(0), draw(0), head))


def test_a_chunk_at_a_time_and_once_more_on_the_way_back(head):
    hidden = draw(11).requires_grad_()
    statistics = token_statistics(hidden, head, labels_of(11), chunk_size=4)
    assert head.rows == [4, 4, 3]
    statistics.logprobs.sum().backward()
    assert sorted(head.rows) == sorted([4, 4, 3] * 2)


def test_nothing_wide_is_kept_for_the_way_back(head):
    """What the graph saves is hidden states; all at once it would be logits."""

    def kept(chunk_size):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.append(x.numel()) or x, lambda x: x
        ):
            token_statistics(
                draw(50).requires_grad_(), head, labels_of(50), 1.0, chunk_size
            )
        return max(sizes)

    assert kept(None) >= 50 * WORDS
    assert kept(10) <= 10 * WIDTH


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda h: token_statistics(torch.zeros(2, 3, WIDTH), h, labels_of(2)),
            "hidden: expected shape .T, D., found .2, 3, 7",
        ),
        (
            lambda h: token_statistics(draw(3), h, labels_of(2)),
            "labels: expected shape .3. as of hidden",
        ),
        (
            lambda h: token_statistics(draw(3), h, labels_of(3), chunk_size=0),
            "chunk_size: expected an integer >= 1, found 0",
        ),
        (
            lambda h: token_statistics(draw(3), h, labels_of(3), temperature=0),
            "temperature: expected a number > 0",
        ),
        (
            lambda h: score_hidden(draw(3), draw(2), h),
            "negative: expected shape .3, 7. as of anchor",
        ),
        (
            lambda h: view_divergences(draw(3), draw(2), draw(3), h, labels_of(3)),
            "positive: expected shape .3, 7. as of anchor",
        ),
        (
            lambda h: view_divergence(draw(3), draw(2), h, labels_of(3)),
            "negative: expected shape .3, 7. as of anchor",
        ),
        (
            lambda h: hidden_entropy(torch.zeros(2, 3, WIDTH), h),
            "hidden: expected shape .T, D., found .2, 3, 7",
        ),
    ],
)
def test_refusals(head, call, message):
    with pytest.raises(ValueError, match=message):
        call(head)
