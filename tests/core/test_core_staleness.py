"""Weights of stale tokens: closed forms, exact ones for any setting, limits, refusals.

Does not cover where AReaL's log-probabilities and versions come from.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import staleness_weights


def test_on_policy_weights_are_exactly_one():
    logprobs = torch.randn(123, generator=torch.Generator().manual_seed(0)) - 5
    weights = staleness_weights(
        logprobs,
        logprobs,
        torch.full((123,), 7),
        7,
        cap=5.0,
        decay=0.3,
        max_staleness=0,
    )
    assert weights.dtype == torch.float32 and (weights == 1).all()


@given(
    st.lists(st.floats(-1e4, 0, width=32), max_size=20),
    st.integers(0, 10**9),
    st.none() | st.floats(1, 1e6),
    st.floats(0, 1),
    st.none() | st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_on_policy_weights_are_exactly_one_for_every_setting(
    logprobs, version, cap, decay, max_staleness, dtype
):
    """On-policy data gives exactly the unweighted loss (a cap is 1 or more)."""
    logprobs = torch.tensor(logprobs).to(dtype)
    versions = torch.full(logprobs.shape, version)
    weights = staleness_weights(
        logprobs, logprobs.clone(), versions, version, cap, decay, max_staleness
    )
    assert weights.tolist() == [1.0] * len(logprobs)


def test_worked_example():
    proximal = torch.tensor([0.0, math.log(2), math.log(8), -math.log(4)])
    versions = torch.tensor([3, 2, 1, 0])
    args = (proximal, torch.zeros(4), versions, 3)
    torch.testing.assert_close(
        staleness_weights(*args), torch.tensor([1.0, 2.0, 8.0, 0.25])
    )
    torch.testing.assert_close(
        staleness_weights(*args, cap=5.0), torch.tensor([1.0, 2.0, 5.0, 0.25])
    )
    # Staleness 0, 1, 2, 3: decay 1, 1/2, 1/4, 1/8.
    torch.testing.assert_close(
        staleness_weights(*args, cap=5.0, decay=0.5),
        torch.tensor([1.0, 1.0, 1.25, 0.03125]),
    )
    torch.testing.assert_close(
        staleness_weights(*args, cap=5.0, decay=0.5, max_staleness=2),
        torch.tensor([1.0, 1.0, 1.25, 0.0]),
    )
    torch.testing.assert_close(
        staleness_weights(*args, decay=0.0), torch.tensor([1.0, 0.0, 0.0, 0.0])
    )


def test_equals_a_python_loop():
    generator = torch.Generator().manual_seed(1)
    proximal, behaviour = torch.randn(2, 47, generator=generator)
    versions = torch.randint(0, 9, (47,), generator=generator)
    weights = staleness_weights(proximal, behaviour, versions, 6, 1.7, 0.9, 4)
    for i, weight in enumerate(weights.tolist()):
        age = max(0, 6 - int(versions[i]))
        expected = min(math.exp(proximal[i] - behaviour[i]), 1.7) * 0.9**age
        assert weight == pytest.approx(0.0 if age > 4 else expected, rel=1e-5)


def test_a_newer_version_is_not_stale():
    """A weight update may land while a response is still being sampled."""
    weights = staleness_weights(
        torch.zeros(2), torch.zeros(2), torch.tensor([4, 5]), 3, None, 0.5, 0
    )
    assert weights.tolist() == [1.0, 1.0]


def test_never_infinite():
    proximal = torch.tensor([0.0, -1e4, 0.0, -math.inf])
    behaviour = torch.tensor([-1e4, 0.0, -math.inf, 0.0])
    weights = staleness_weights(proximal, behaviour, torch.zeros(4).long(), 0)
    assert torch.isfinite(weights).all() and (weights >= 0).all()
    capped = staleness_weights(proximal, behaviour, torch.zeros(4).long(), 0, cap=5.0)
    assert capped[0] == capped[2] == 5.0


def test_no_gradient_half_precision_and_empty():
    proximal = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    weights = staleness_weights(proximal, proximal, torch.zeros(3).long(), 0)
    assert not weights.requires_grad and weights.dtype == torch.float32
    empty = torch.zeros(0)
    assert staleness_weights(empty, empty, empty.long(), 0).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cap": 0.0}, "cap: expected a number > 0"),
        ({"cap": math.nan}, "cap: expected a number > 0"),
        ({"decay": 1.5}, "decay: expected a number in"),
        ({"decay": -0.1}, "decay: expected a number in"),
        ({"max_staleness": -1}, "max_staleness: expected an integer >= 0"),
        ({"behaviour_logprobs": torch.zeros(2)}, "behaviour_logprobs: expected shape"),
        ({"versions": torch.zeros(4)}, "versions: expected shape"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "proximal_logprobs": torch.zeros(3),
        "behaviour_logprobs": torch.zeros(3),
        "versions": torch.zeros(3, dtype=torch.long),
        "current_version": 0,
    }
    with pytest.raises(ValueError, match=message):
        staleness_weights(**(arguments | change))
