"""The choice of perception tokens by entropy gain.

Covers a naive per-sequence loop as an independent reference, both quotas, the floor on
the rise of entropy, and hypothesis properties (ties, interleaving, relabelling).
Scores are in test_core_scores.py, the random control in test_core_random.py. Does not
cover whether selected tokens are perceptual in a real model.
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.core import entropy_gain, rise_eligible, select_perception_tokens

FRACTIONS = [0.01, 0.07, 0.1, 0.2, 0.25, 0.29, 0.3, 0.5, 0.57, 0.6, 0.7, 0.9, 1.0]
QUOTAS = ["ceil", "floor"]


def exact_quota(count: int, fraction: float, quota: str = "ceil") -> int:
    """Round fraction * count in decimal arithmetic, as the user typed the fraction."""
    product = Decimal(str(fraction)) * count
    if quota == "ceil":
        return int(product.to_integral_value(rounding=ROUND_CEILING))
    floor = int(product.to_integral_value(rounding=ROUND_FLOOR))
    return max(floor, 1) if count else 0


def naive_selection(gain, eligible, ids, fraction, quota="ceil"):
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
        for i in candidates[: exact_quota(len(candidates), fraction, quota)]:
            selected[i] = True
    return selected


def select(gain, eligible, ids, fraction, quota="ceil"):
    """Call the code under test with lists."""
    return select_perception_tokens(
        torch.tensor(gain, dtype=torch.float32),
        torch.tensor(eligible, dtype=torch.bool),
        torch.tensor(ids, dtype=torch.long),
        fraction,
        quota,
    ).tolist()


# Few distinct values, so that ties are common; all exact in fp32.
gains = st.sampled_from(
    [0.0, -0.5, 0.125, 0.25, 0.5, 0.75, 1.0, math.nan, math.inf, -math.inf]
)
# A few sequences, interleaved at random, by ids of any value.
tokens = st.lists(
    st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True
).flatmap(
    lambda ids: st.lists(
        st.tuples(gains, st.booleans(), st.sampled_from(ids)), max_size=60
    )
)


def columns(rows, number=3):
    """Turn drawn tokens into lists, one for each of their properties."""
    return [list(column) for column in zip(*rows)] if rows else [[]] * number


@settings(deadline=None, max_examples=300)
@given(tokens, st.sampled_from(FRACTIONS), st.sampled_from(QUOTAS))
def test_selection_equals_the_naive_loop(rows, fraction, quota):
    gain, eligible, ids = columns(rows)
    assert select(gain, eligible, ids, fraction, quota) == naive_selection(
        gain, eligible, ids, fraction, quota
    )


entropies = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0, math.nan, math.inf])
scored = st.lists(
    st.tuples(entropies, entropies, st.booleans(), st.integers(-2, 2)), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(
    scored,
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
    st.sampled_from([0.3, 0.5, 1.0]),
    st.sampled_from(QUOTAS),
)
def test_a_floor_on_the_rise_equals_the_naive_loop(rows, min_gain, fraction, quota):
    """Score, floor and selection together, as the training code composes them."""
    anchor, negative, gated, ids = columns(rows, 4)
    words = 16  # log 16 = 2.77: floors of .277, .69, 1.39 and 2.77 nats
    anchors, negatives = torch.tensor(anchor), torch.tensor(negative)
    eligible = torch.tensor(gated, dtype=torch.bool)
    eligible &= rise_eligible(anchors, negatives, min_gain, words)
    chosen = select_perception_tokens(
        entropy_gain(anchors, negatives),
        eligible,
        torch.tensor(ids, dtype=torch.long),
        fraction,
        quota,
    )
    allowed, gain = [], []
    for before, after, gate in zip(anchor, negative, gated):
        usable = math.isfinite(before) and math.isfinite(after)
        rise = after - before if usable else 0.0
        allowed.append(gate and rise > 0 and rise >= min_gain * math.log(words))
        # In fp32, as two gains must tie or not as they do there.
        gain.append(float(torch.tensor(rise) / (torch.tensor(after) + 1e-6)))
    expected = naive_selection(gain, allowed, ids, fraction, quota)
    assert chosen.tolist() == expected


@settings(deadline=None, max_examples=60)
@given(tokens, st.sampled_from(FRACTIONS), st.randoms(use_true_random=False))
def test_sequences_do_not_affect_each_other(rows, fraction, random):
    """Interleaving sequences anew, each in its own order, changes no choice."""
    gain, eligible, ids = columns(rows)
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
    gain, eligible, ids = columns(rows)
    order = sorted(set(ids), key=lambda i: i % 7)
    renamed = [[11, -1, 0, 2**40, -(2**50)][order.index(i)] for i in ids]
    assert select(gain, eligible, ids, fraction) == select(
        gain, eligible, renamed, fraction
    )


@settings(deadline=None, max_examples=60)
@given(tokens, st.sampled_from(FRACTIONS))
def test_ineligible_values_do_not_matter(rows, fraction):
    gain, eligible, ids = columns(rows)
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


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_quota_is_free_of_float_error(fraction, quota):
    for count in [*range(1, 41), 100, 300, 1000]:
        chosen = select([0.5] * count, [True] * count, [0] * count, fraction, quota)
        assert sum(chosen) == exact_quota(count, fraction, quota), (fraction, count)


def test_quota_examples_of_the_contract():
    for fraction, count, quota in [(0.1, 10, 1), (0.3, 10, 3), (0.5, 3, 2)]:
        assert (
            sum(select([1.0] * count, [True] * count, [0] * count, fraction)) == quota
        )


def test_the_floored_quota_takes_at_least_one_of_any_candidates():
    """The published verl code: half of 1, 2, 3, 4, 5 candidates is 1, 1, 1, 2, 2."""
    sizes = [
        sum(select([1.0] * n, [True] * n, [0] * n, 0.5, "floor")) for n in range(6)
    ]
    assert sizes == [0, 1, 1, 1, 2, 2]


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
        ({"quota": "round"}, "quota: expected one of ceil, floor, found 'round'"),
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
