"""Throughput of a step, and what a batch tells of interruptions, lengths, rewards."""

from __future__ import annotations

import pytest
import torch
from areal.utils import stats_tracker
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.config.blocks import REWARD_PARTS
from areal_cppo.run.metrics import IDLE, SAMPLES, TOKENS
from areal_cppo.run.recorder import throughput
from areal_cppo.step.metrics import LENGTH_BINS, record_batch


def test_rates_and_idle_share():
    stats = {
        "cppo/responses": 64.0,
        "cppo/response_tokens": 1600.0,
        "timeperf/rollout": 2.0,
    }
    found = throughput(stats, 8.0)
    assert found == {SAMPLES: 8.0, TOKENS: 200.0, IDLE: 0.25}
    assert throughput({"timeperf/rollout": 8.01}, 8.0) == {IDLE: 1.0}
    assert throughput({}, 8.0) == {}


def row(*versions: int | None) -> list[int]:
    """Versions of a row; None: not of the response, where AReaL has 0 or -1."""
    return [0 if version is None else version for version in versions]


def test_interrupted_responses_and_lengths_by_hand():
    """Three rows of 6 tokens: one of version 3 alone; one of 2 and then 3; one whose
    padding only differs. The loss mask is shifted by one, as AReaL hands it over."""
    versions = torch.tensor(
        [
            row(None, 3, 3, 3, None, None),
            row(None, None, 2, 2, 3, 3),
            row(None, 1, 1, None, None, None),
        ]
    )
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]])
    batch = {
        "loss_mask": torch.roll(mask, -1, dims=-1),
        "versions": versions,
        "rewards": torch.tensor([1.0, 0.0, 1.0]),
        "multi_modal_input": [
            {REWARD_PARTS: p} for p in ({"a": 1.0, "b": 0.5}, {"a": 0.0})
        ]
        + [{}],
    }
    stats_tracker.export_all()  # what other tests have left
    record_batch([batch], version=4, correct_reward=0.5, longest=LENGTH_BINS)
    stats = stats_tracker.export_all()
    assert stats["cppo/responses"] == 3
    assert stats["cppo/interrupted_responses"] == 1
    assert stats["cppo/length_bin_tokens"] == 1
    # Each part over the responses that have it.
    assert stats["cppo/reward_parts/a"] == stats["cppo/reward_parts/b"] == 0.5
    filled = {
        k: stats[f"cppo/response_lengths/{k:02d}"]
        for k in range(LENGTH_BINS)
        if stats[f"cppo/response_lengths/{k:02d}"]
    }
    assert filled == {1: 1, 2: 1, 3: 1}  # of 2, 3 and 4 tokens


@given(
    groups=st.lists(
        st.lists(st.sampled_from([0.0, 0.1, 0.9, 1.0]), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_groups_without_a_signal(groups):
    """Groups of any size, their responses of 1, 2, ... tokens; text has no more keys.

    Over ranks: step/test_actor_distributed.py.
    """
    batch = [
        {
            "loss_mask": torch.ones(len(group), 4).tril(),
            "versions": torch.zeros(len(group), 4, dtype=torch.int32),
            "rewards": torch.tensor(group),
        }
        for group in groups
    ]
    stats_tracker.export_all()
    record_batch(batch, version=0, correct_reward=0.5, longest=3)
    stats = stats_tracker.export_all()
    alike = [group for group in groups if len(set(group)) == 1 < len(group)]
    of = sum(len(group) > 1 for group in groups)
    counts = {
        "equal_rewards": len(alike),
        "equal_rewards_zero": sum(group[0] == 0 for group in alike),
        "equal_rewards_correct": sum(group[0] > 0.5 for group in alike),
    }
    for name, count in counts.items():
        found = stats.get(f"cppo/{name}")  # absent where there is no group
        assert found == (pytest.approx(count / of) if of else None)
    long = sum(max(0, len(group) - 2) for group in groups)
    assert stats["cppo/cut_off"] == pytest.approx(long / sum(map(len, groups)))
