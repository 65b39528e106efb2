"""Reward normalisation of groups that lost a response.

Against a hand-worked case, and against AReaL's own where groups are whole.
"""

from __future__ import annotations

import math

import pytest
import torch
from areal.api.cli_args import NormConfig
from areal.utils.data import Normalization
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.step.advantages import normalize_groups
from tests.step import harness

LEVELS = ("group", "batch", None)


def test_by_hand():
    """Groups (1, 0, 0) and (1): mean 1/3, deviation 1/sqrt(3); one alone: 0."""
    config = NormConfig(mean_level="group", std_level="group", eps=0.0, group_size=8)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    got = normalize_groups(rewards, sizes=[3, 1], config=config)
    unit = math.sqrt(3) / 3
    torch.testing.assert_close(got, torch.tensor([2 * unit, -unit, -unit, 0.0]))


@pytest.mark.parametrize("mean", LEVELS)
@pytest.mark.parametrize("std", LEVELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_whole_groups_as_areal(mean, std, leave_one_out):
    config = NormConfig(
        mean_level=mean, std_level=std, mean_leave1out=leave_one_out, group_size=3
    )
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(0))
    expected = Normalization(config)(rewards)
    got = normalize_groups(rewards, sizes=[3] * 4, config=config)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_group_does_not_depend_on_the_others(sizes):
    config = NormConfig(mean_level="group", std_level="group", group_size=4)
    rewards = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(1))
    together = normalize_groups(rewards, sizes=sizes, config=config)
    for part, alone in zip(together.split(sizes), rewards.split(sizes), strict=True):
        expected = normalize_groups(alone, sizes=[len(alone)], config=config)
        torch.testing.assert_close(part, expected)


def test_actor_normalises_what_is_left_of_a_group(actor):
    """AReaL 1.0.4 alone divides the leftover rows by a deviation of zero: 1e5."""
    config = NormConfig(mean_level="group", std_level="group", group_size=2)
    actor.config.reward_norm = config
    actor.actor.reward_norm = Normalization(config)  # as AReaL makes it of the first
    whole = [harness.trajectory(i, 5, float(i % 2)) for i in range(2)]
    group = {
        key: whole[0][key] + whole[1][key]
        if isinstance(whole[0][key], list)
        else torch.cat([whole[0][key], whole[1][key]])
        for key in whole[0]
    }
    left_over = harness.trajectory(3, 5, 1.0)
    result = harness.prepared(actor, [left_over, group])
    assert result[0]["advantages"].abs().max() == 0
    assert result[1]["advantages"].abs().max() < 2
    assert [len(item["multi_modal_input"]) for item in result] == [1, 2]
