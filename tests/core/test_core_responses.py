"""Which responses of a group are drawn, and how often each counts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import draw_responses

GROUPS = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 2), min_size=1, max_size=3)),
    max_size=7,
)


def draw(group, most, version=0, run_seed=1):
    gated = torch.tensor([passed for passed, _ in group], dtype=torch.bool)
    tokens = [torch.tensor(ids) for _, ids in group]
    return draw_responses(gated, tokens, most, run_seed=run_seed, version=version)


@given(group=GROUPS, most=st.integers(1, 8), version=st.integers(0, 99))
def test_as_many_as_asked_for_and_together_they_count_as_all(group, most, version):
    weights = draw(group, most, version)
    passed = sum(passed for passed, _ in group)
    chosen = [w for w in weights.tolist() if w]
    assert len(chosen) == min(most, passed)
    assert sum(chosen) == pytest.approx(passed) and len(set(chosen)) <= 1
    assert all(group[i][0] for i in weights.nonzero().flatten())
    if passed <= most:
        assert set(chosen) <= {1.0}  # exactly


@given(data=st.data(), group=GROUPS, most=st.integers(1, 8))
def test_the_order_of_a_group_does_not_matter(data, group, most):
    order = data.draw(st.permutations(range(len(group))))
    one, other = (
        Counter(str(ids) for w, (_, ids) in zip(draw(items, most), items) if w)
        for items in (group, [group[i] for i in order])
    )
    assert one == other


@pytest.mark.parametrize("most", [1, 2, 3])
def test_all_are_drawn_alike_often(most):
    """Two of the four have the same tokens."""
    group = [(True, [1]), (True, [2]), (False, [3]), (True, [2]), (True, [4])]
    drawn = sum((draw(group, most, v) > 0).float() for v in range(2000)) / 2000
    assert drawn[2] == 0
    expected = torch.full((4,), most / 4)
    torch.testing.assert_close(drawn[[0, 1, 3, 4]], expected, rtol=0, atol=0.045)


def test_seed_and_version_decide():
    group = [(True, [i]) for i in range(40)]
    one = draw(group, 5)
    assert torch.equal(one, draw(group, 5))
    assert not torch.equal(one, draw(group, 5, version=1))
    assert not torch.equal(one, draw(group, 5, run_seed=2))


def test_none_is_refused():
    with pytest.raises(ValueError, match="most: expected an integer >= 1, found 0"):
        draw([(True, [1])], 0)
