"""PGPO: its settings, tokens' positions and weights.

Covers closed forms, a naive loop under hypothesis and refusals. Through the model it is
in tests/step/test_pgpo.py.
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import PGPOConfig, dependency_positions, perception_weights

NAN = float("nan")


def test_positions_closed_form():
    """log(1 + S) of 0, log 2 and 2 log 2: 0, half, 1; sequence 3 has one token."""
    dependency = torch.tensor([0.0, 1.0, 5.0, 3.0])
    found = dependency_positions(dependency, torch.tensor([7, 7, 3, 7]))
    torch.testing.assert_close(
        found, torch.tensor([0.0, 0.5, NAN, 1.0]).double(), equal_nan=True
    )


def test_no_position_where_tokens_depend_alike_or_are_not_finite():
    dependency = torch.tensor([0.1, 0.1 + 1e-7, math.inf, 1.0, NAN, 1.0])
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    positions = dependency_positions(dependency, ids)
    assert positions.isnan().all()
    assert perception_weights(positions, ids, 0.4, 2.0).eq(1).all()


def test_weights_closed_form():
    """tau .4, beta 2: positions 0, .2, .4 and 1 weigh 0, .5, 1 and 3, mean 9/8."""
    positions = torch.tensor([0.0, 0.2, 0.4, 1.0], dtype=torch.float64)
    found = perception_weights(positions, torch.zeros(4, dtype=torch.long), 0.4, 2.0)
    expected = torch.tensor([0.0, 4 / 9, 8 / 9, 24 / 9], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_suppression_alone_and_boost_alone():
    positions = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    ids = torch.zeros(3, dtype=torch.long)
    only_lowered = perception_weights(positions, ids, 1.0, 0.0)
    torch.testing.assert_close(only_lowered, torch.tensor([0.0, 1.0, 2.0]).double())
    only_raised = perception_weights(positions, ids, 0.0, 2.0)
    torch.testing.assert_close(only_raised, torch.tensor([0.5, 1.0, 1.5]).double())


tokens = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.01, 0.3, 2.0, 50.0])),
    max_size=30,
)


@given(tokens, st.floats(0.05, 0.95), st.floats(0, 5))
def test_weights_equal_a_loop_and_have_a_mean_of_one(drawn, tau, beta):
    ids = torch.tensor([sequence for sequence, _ in drawn], dtype=torch.long)
    values = torch.tensor([value for _, value in drawn])
    found = perception_weights(dependency_positions(values, ids), ids, tau, beta)
    for sequence in set(ids.tolist()):
        mine = (ids == sequence).nonzero().flatten().tolist()
        logs = [math.log(1 + float(values[t])) for t in mine]
        low, high = min(logs), max(logs)
        expected = [1.0] * len(mine)
        if high > low:
            places = [(x - low) / (high - low) for x in logs]
            raw = [
                x / tau if x < tau else 1 + beta * (x - tau) / (1 - tau) for x in places
            ]
            expected = [x * len(raw) / sum(raw) for x in raw]
        assert found[mine].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert float(found[mine].mean()) == pytest.approx(1.0)


def test_refuses_ids_of_other_tokens():
    with pytest.raises(ValueError, match="sequence_ids: expected shape .2."):
        dependency_positions(torch.zeros(2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="sequence_ids: expected shape .2."):
        perception_weights(torch.zeros(2), torch.zeros(3, dtype=torch.long), 0.4, 2.0)


def test_defaults_are_the_published_ones():
    config = PGPOConfig()
    assert (config.tau, config.beta, config.dependency) == (0.4, 2.0, "k3")
    assert config.max_dependency is None and config.views == [{"name": "blank"}]
    assert config.has_effect and config.responses is None
    for item in dataclasses.fields(PGPOConfig):
        assert len(item.metadata["help"]) > 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tau": 1.1}, "pgpo.tau: expected a number in [0, 1], found 1.1"),
        ({"beta": -1}, "pgpo.beta: expected a number in [0, 1000], found -1"),
        ({"dependency": "k1"}, "pgpo.dependency: expected one of k3, kl, found 'k1'"),
        ({"max_dependency": 0}, "pgpo.max_dependency: expected a number in (0, 1e"),
        ({"views": []}, "pgpo.views: expected at least one perturbation"),
    ],
    ids=str,
)
def test_refused_in_one_line(values, message):
    with pytest.raises(ValueError) as caught:
        PGPOConfig(**values)
    assert str(caught.value).startswith(message)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)
