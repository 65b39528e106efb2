"""VPPO: its settings, what responses' advantages are multiplied by, which tokens stay.

Covers closed forms, naive loops under hypothesis, invariance and refusals. Through the
model it is in tests/step/test_vppo.py.
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from areal_cppo.core import (
    VPPOConfig,
    advantage_factors,
    response_dependency,
    select_dependent_tokens,
)

NAN = float("nan")


def test_response_dependency_closed_form():
    """Two tokens of sequence 2, one of 0, none of 1, one that is none of 3."""
    dependency = torch.tensor([1.0, 0.5, 4.0, float("inf")])
    found = response_dependency(dependency, torch.tensor([2, 0, 2, 3]), 4)
    assert found.dtype == torch.float64
    assert found[[0, 2]].tolist() == [0.5, 2.5]
    assert found[[1, 3]].isnan().all()


def factors(dependencies, beta_min, beta_max=None):
    values = torch.tensor(dependencies, dtype=torch.float64)
    known = values[values.isfinite()]
    return advantage_factors(
        values,
        lowest=float(known.min()),
        highest=float(known.max()),
        mean=float(known.mean()),
        beta_min=beta_min,
        beta_max=beta_max,
    )


def test_factors_of_a_fixed_range():
    """Eq. 5: 0.9 at the lowest, 1.1 at the highest, half-way between half-way."""
    found = factors([0.0, 1.0, 2.0, NAN], 0.9, 1.1)
    torch.testing.assert_close(found.tolist(), [0.9, 1.0, 1.1, 1.0])


def test_factors_of_a_dynamic_range():
    """Positions 0, .2 and 1, mean .4: the highest is .9 + .1 / .4 = 1.15."""
    found = factors([0.0, 1.0, 5.0], 0.9)
    torch.testing.assert_close(found.tolist(), [0.9, 0.95, 1.15])


@pytest.mark.parametrize("beta_max", [1.0, None])
def test_a_range_of_one_is_exactly_one(beta_max):
    assert factors([0.3, 0.123, 7.7, NAN], 1.0, beta_max).eq(1).all()


@pytest.mark.parametrize("dependencies", [[0.4], [0.1, 0.1, 0.1], [0.2, 0.2 + 1e-7]])
def test_responses_that_hardly_differ_keep_their_advantage(dependencies):
    assert factors(dependencies, 0.5, 2.0).eq(1).all()


def test_no_response_with_a_dependency():
    """What a batch without any hands over: an empty range."""
    found = advantage_factors(
        torch.tensor([NAN]),
        lowest=math.inf,
        highest=-math.inf,
        mean=0.0,
        beta_min=0.9,
    )
    assert found.tolist() == [1.0]


@given(
    st.lists(st.floats(0, 10), min_size=2, max_size=12),
    st.floats(0, 1),
    st.floats(1, 3) | st.none(),
)
def test_factors_equal_a_loop(dependencies, beta_min, beta_max):
    found = factors(dependencies, beta_min, beta_max).tolist()
    low, high = min(dependencies), max(dependencies)
    if high - low <= 1e-6:
        assert found == [1.0] * len(dependencies)
        return
    places = [(value - low) / (high - low) for value in dependencies]
    top = beta_max
    if top is None:
        top = beta_min + (1 - beta_min) / (sum(places) / len(places))
        assert sum(found) / len(found) == pytest.approx(1.0)
    expected = [beta_min + (top - beta_min) * place for place in places]
    assert found == pytest.approx(expected)


def test_a_mean_of_other_responses_is_refused():
    with pytest.raises(ValueError, match="mean: expected a number between lowest and"):
        advantage_factors(
            torch.ones(1), lowest=0.0, highest=1.0, mean=2.0, beta_min=0.9
        )


def test_selection_worked_example():
    """ceil(.4 * 4) = 2 of sequence 7, ceil(.4 * 1) = 1 of sequence 3; ties: earlier."""
    dependency = torch.tensor([0.2, 0.0, 0.2, 0.2, 0.0])
    ids = torch.tensor([7, 3, 7, 7, 7])
    found = select_dependent_tokens(dependency, ids, 0.4)
    assert found.tolist() == [True, True, True, False, False]


tokens = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.25, 0.5, 3.0])),
    max_size=40,
)


@given(tokens, st.sampled_from([0.05, 0.2, 0.4, 0.5, 1.0]))
def test_selection_equals_a_loop(drawn, fraction):
    ids = [sequence for sequence, _ in drawn]
    values = [value for _, value in drawn]
    found = select_dependent_tokens(
        torch.tensor(values), torch.tensor(ids, dtype=torch.long), fraction
    )
    expected = set()
    for sequence in set(ids):
        mine = [t for t in range(len(ids)) if ids[t] == sequence]
        quota = math.ceil(round(fraction * len(mine), 9))
        expected |= set(sorted(mine, key=lambda t: -values[t])[:quota])
    assert found.nonzero().flatten().tolist() == sorted(expected)
    assert fraction < 1 or found.all()


def test_refuses_ids_of_other_tokens():
    with pytest.raises(ValueError, match="sequence_ids: expected shape .2."):
        response_dependency(torch.zeros(2), torch.zeros(3, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="sequence_ids: expected shape .2."):
        select_dependent_tokens(torch.zeros(2), torch.zeros(3, dtype=torch.long), 0.4)
    with pytest.raises(ValueError, match="top_fraction: expected a number in .0, 1."):
        select_dependent_tokens(torch.zeros(2), torch.zeros(2, dtype=torch.long), 0.0)


def test_defaults_are_the_published_ones():
    config = VPPOConfig()
    assert (config.top_fraction, config.beta_min, config.beta_max) == (0.4, 0.9, None)
    assert (config.dependency, config.max_dependency) == ("kl", 10.0)
    assert config.views == [{"name": "black_squares", "coverage": 0.5, "square": 14}]
    for item in dataclasses.fields(VPPOConfig):
        assert len(item.metadata["help"]) > 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_fraction": 0}, "vppo.top_fraction: expected a number in (0, 1], found"),
        ({"beta_min": 1.1}, "vppo.beta_min: expected a number in [0, 1], found 1.1"),
        (
            {"beta_max": 0.8},
            "vppo.beta_max: expected a number >= vppo.beta_min (0.9), or null, found",
        ),
        ({"dependency": "k1"}, "vppo.dependency: expected one of kl, k3, found 'k1'"),
        ({"max_dependency": -1}, "vppo.max_dependency: expected a number in (0, 1e"),
        ({"views": None}, "vppo.views: expected at least one perturbation"),
    ],
    ids=str,
)
def test_refused_in_one_line(values, message):
    with pytest.raises(ValueError) as caught:
        VPPOConfig(**values)
    assert str(caught.value).startswith(message)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_through_omegaconf():
    schema = OmegaConf.structured(VPPOConfig)
    text = "{beta_min: 0.8, beta_max: 1.2, dependency: k3, views: [{name: noise}]}"
    config = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(text)))
    assert config == VPPOConfig(
        beta_min=0.8, beta_max=1.2, dependency="k3", views=[{"name": "noise"}]
    )
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(schema, {"k": 0.4})
