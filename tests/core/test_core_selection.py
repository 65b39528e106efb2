"""Entropy, entropy gain and the choice of perception tokens.

Covers closed forms, a naive per-sequence loop as an independent reference, hypothesis
properties (ties, interleaving, relabelling) and the random control. Does not cover
whether selected tokens are perceptual in a real model.
"""

import math
from decimal import ROUND_CEILING, Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.core import (
    entropy_gain,
    select_perception_tokens,
    select_random_tokens,
    token_entropy,
)

FRACTIONS = [0.01, 0.07, 0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]


def exact_quota(count: int, fraction: float) -> int:
    """ceil(fraction * count) in decimal arithmetic, as the user typed the fraction."""
    product = Decimal(str(fraction)) * count
    return int(product.to_integral_value(rounding=ROUND_CEILING))


def naive_selection(gain, eligible, ids, fraction):
    """Reference: sequence by sequence, by Python's sort."""
    selected = [False] * len(gain)
    for sequence in set(ids):
        candidates = [
            i
            for i in range(len(gain))
            if ids[i] == sequence
            and eligible[i]
            and gain[i] > 0
            and math.isfinite(gain[i])
        ]
        candidates.sort(key=lambda i: (-gain[i], i))
        for i in candidates[: exact_quota(len(candidates), fraction)]:
            selected[i] = True
    return selected


def select(gain, eligible, ids, fraction):
    """Call the code under test with lists."""
    return select_perception_tokens(
        torch.tensor(gain, dtype=torch.float32),
        torch.tensor(eligible, dtype=torch.bool),
        torch.tensor(ids, dtype=torch.long),
        fraction,
    ).tolist()


# Few distinct values, so that ties are common; all exact in fp32.
gains = st.sampled_from(
    [0.0, -0.5, 0.125, 0.25, 0.5, 0.75, 1.0, math.nan, math.inf, -math.inf]
)
tokens = st.lists(
    st.tuples(gains, st.booleans(), st.sampled_from([-7, 0, 3, 4, 2**40])), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(tokens, st.sampled_from(FRACTIONS))
def test_selection_equals_the_naive_loop(rows, fraction):
    gain, eligible, ids = (list(column) for column in zip(*rows)) if rows else ([],) * 3
    assert select(gain, eligible, ids, fraction) == naive_selection(
        gain, eligible, ids, fraction
    )


@settings(deadline=None, max_examples=60)
@given(tokens, st.sampled_from(FRACTIONS), st.randoms(use_true_random=False))
def test_sequences_do_not_affect_each_other(rows, fraction, random):
    """Interleaving sequences anew, each in its own order, changes no choice."""
    gain, eligible, ids = (list(column) for column in zip(*rows)) if rows else ([],) * 3
    before = select(gain, eligible, ids, fraction)
    queues = {
        sequence: [i for i in range(len(ids)) if ids[i] == sequence]
        for sequence in set(ids)
    }
    slots = list(ids)
    random.shuffle(slots)
    order = [queues[sequence].pop(0) for sequence in slots]
    after = select(
        *([column[i] for i in order] for column in (gain, eligible, ids)), fraction
    )
    assert after == [before[i] for i in order]


@settings(deadline=None, max_examples=60)
@given(tokens, st.sampled_from(FRACTIONS))
def test_only_equality_of_ids_matters(rows, fraction):
    gain, eligible, ids = (list(column) for column in zip(*rows)) if rows else ([],) * 3
    renamed = [{-7: 11, 0: -1, 3: 0, 4: 5, 2**40: -(2**50)}[i] for i in ids]
    assert select(gain, eligible, ids, fraction) == select(
        gain, eligible, renamed, fraction
    )


@settings(deadline=None, max_examples=60)
@given(tokens, st.sampled_from(FRACTIONS))
def test_ineligible_values_do_not_matter(rows, fraction):
    gain, eligible, ids = (list(column) for column in zip(*rows)) if rows else ([],) * 3
    masked = [g if e else 123.0 for g, e in zip(gain, eligible)]
    assert select(gain, eligible, ids, fraction) == select(
        masked, eligible, ids, fraction
    )


def test_worked_example():
    # Sequence 9 has candidates .3, .5, .5 (0 is none): ceil(.5 * 3) = 2, both .5.
    # Sequence 2 has one: ceil(.5) = 1. Sequence 5 has none.
    gain = [0.3, 0.9, 0.5, 0.0, 0.5, 0.0]
    ids = [9, 2, 9, 9, 9, 5]
    assert select(gain, [True] * 6, ids, 0.5) == [False, True, True, False, True, False]


def test_ties_go_to_the_earlier_token():
    assert select([0.5] * 5, [True] * 5, [1] * 5, 0.4) == [True] * 2 + [False] * 3
    assert select([0.5] * 3, [False, True, True], [1] * 3, 0.5) == [False, True, False]


def test_ties_of_a_long_response_go_to_the_earlier_tokens():
    chosen = select([0.5] * 5000, [True] * 5000, [1] * 5000, 0.5)
    assert chosen == [True] * 2500 + [False] * 2500


def test_adjacent_sequences_and_last_tokens_are_kept_apart():
    """A one-token response and each response's last token can be selected."""
    assert select([0.1, 0.2, 0.9], [True] * 3, [4, 4, 5], 0.5) == [False, True, True]


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_nothing_to_select(gain):
    assert not any(select([gain] * 4, [True] * 4, [0, 0, 1, 1], 1.0))


def test_empty_input():
    assert select([], [], [], 0.5) == []


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_quota_is_free_of_float_error(fraction):
    for count in [*range(1, 41), 100, 300, 1000]:
        chosen = select([0.5] * count, [True] * count, [0] * count, fraction)
        assert sum(chosen) == exact_quota(count, fraction), (fraction, count)


def test_quota_examples_of_the_contract():
    for fraction, count, quota in [(0.1, 10, 1), (0.3, 10, 3), (0.5, 3, 2)]:
        assert (
            sum(select([1.0] * count, [True] * count, [0] * count, fraction)) == quota
        )


def test_selection_carries_no_gradient_and_keeps_half_precision_order():
    gain = torch.tensor([0.25, 0.75, 0.5], dtype=torch.bfloat16, requires_grad=True)
    ids = torch.zeros(3, dtype=torch.int32)
    chosen = select_perception_tokens(gain, torch.ones(3, dtype=torch.bool), ids, 0.5)
    assert chosen.dtype == torch.bool and not chosen.requires_grad
    assert chosen.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_fraction": 0.0}, "top_fraction: expected a number in"),
        ({"top_fraction": 1.01}, "top_fraction: expected a number in"),
        ({"top_fraction": math.nan}, "top_fraction: expected a number in"),
        ({"eligible": torch.ones(3)}, "eligible: expected a bool tensor"),
        ({"sequence_ids": torch.zeros(4)}, "sequence_ids: expected shape"),
        ({"gain": torch.zeros(2)}, "gain: expected shape"),
    ],
)
def test_selection_refusals(change, message):
    arguments = {
        "gain": torch.ones(3),
        "eligible": torch.ones(3, dtype=torch.bool),
        "sequence_ids": torch.zeros(3, dtype=torch.long),
        "top_fraction": 0.5,
    }
    with pytest.raises(ValueError, match=message):
        select_perception_tokens(**(arguments | change))


def test_random_control_takes_the_same_share_of_eligible_tokens():
    ids = torch.tensor([3, 1] * 25 + [1, 8, 8])
    eligible = torch.arange(53) % 4 != 0
    generator = torch.Generator().manual_seed(0)
    chosen = select_random_tokens(eligible, ids, 0.3, generator)
    assert not (chosen & ~eligible).any()
    for sequence in (1, 3, 8):
        mine = ids == sequence
        quota = exact_quota(int((eligible & mine).sum()), 0.3)
        assert int((chosen & mine).sum()) == quota
    again = select_random_tokens(eligible, ids, 0.3, torch.Generator().manual_seed(0))
    other = select_random_tokens(eligible, ids, 0.3, generator)
    assert torch.equal(chosen, again) and not torch.equal(chosen, other)


def test_random_control_is_uniform_and_leaves_the_global_state():
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    eligible, ids = torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.long)
    hits = sum(
        select_random_tokens(eligible, ids, 0.25, generator).long() for _ in range(2000)
    )
    # 2 of 8 tokens: 500 hits each; the standard deviation is 19.
    assert (hits - 500).abs().max() < 100
    assert torch.equal(state, torch.get_rng_state())
    empty = select_random_tokens(eligible[:0], ids[:0], 0.5, generator)
    assert empty.shape == (0,)


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
