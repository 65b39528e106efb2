"""Accuracies and their intervals, from records alone."""

from __future__ import annotations

import random

import pytest

from areal_cppo.evaluation.summary import (
    GREEDY,
    clustered_interval,
    describe,
    summarize,
)
from areal_cppo.report.confidence import wilson_interval


def record(index: int, sample, correct=True, **known) -> dict:
    return {
        "index": index,
        "sample": sample,
        "refused": None,
        "correct": correct,
        "format": True,
        "finish_reason": "stop",
        "tokens": 10,
    } | known


def test_one_response_a_problem_is_wilsons_interval():
    means = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert clustered_interval(means, 7) == pytest.approx(wilson_interval(5, 7))


def test_responses_that_are_all_alike_count_once():
    means = [1.0, 0.0, 1.0, 1.0]
    assert clustered_interval(means, 32) == pytest.approx(wilson_interval(3, 4))


def test_responses_that_are_not_alike_at_all_count_each():
    assert clustered_interval([0.5] * 6, 24) == pytest.approx(wilson_interval(12, 24))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_or_all_wrong_has_a_width(share):
    """Nothing then says how alike a problem's responses are: they count once."""
    low, high = clustered_interval([share] * 5, 40)
    assert (low, high) == pytest.approx(wilson_interval(5 * share, 5))
    assert high - low > 0.3


def test_no_problems_are_refused():
    with pytest.raises(ValueError, match="found 0 and 0"):
        clustered_interval([], 0)
    with pytest.raises(ValueError, match="found 2 and 1"):
        clustered_interval([1.0, 1.0], 1)


@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_it_covers_what_it_promises(spread):
    """Problems of unlike difficulty (beta distributed), 8 responses to each of 60."""
    rng = random.Random(0)
    truth, k, n, runs = 0.4, 8, 60, 1000
    covered = naive = 0
    for _ in range(runs):
        chances = (
            rng.betavariate(spread * truth, spread * (1 - truth)) for _ in range(n)
        )
        means = [sum(rng.random() < p for _ in range(k)) / k for p in chances]
        low, high = clustered_interval(means, n * k)
        covered += low <= truth <= high
        low, high = wilson_interval(sum(means) * k, n * k)
        naive += low <= truth <= high
    assert 0.93 <= covered / runs <= 0.97
    assert naive < covered - 0.1 * runs  # why responses may not be taken one by one


def test_numbers_by_hand():
    records = [record(0, GREEDY), record(1, GREEDY, False, finish_reason="length")]
    records += [record(0, 0), record(0, 1, False, format=False), record(1, 0, False)]
    result = summarize(records)
    greedy, sampled = result["greedy"], result["average_at_k"]
    assert greedy["accuracy"] == 0.5 and greedy["n"] == 2
    assert greedy["cut_off"] == 0.5 and greedy["format"] == 1
    assert greedy["interval"] == pytest.approx(list(wilson_interval(1, 2)))
    # The mean of the problems' means, though one problem has fewer responses.
    assert sampled["accuracy"] == 0.25
    assert sampled["n"] == 2 and sampled["responses"] == 3
    assert sampled["format"] == pytest.approx(2 / 3)
    assert greedy["reward"] is None and greedy["parts"] == {}  # of older records


def test_rewards_and_parts_of_a_function_of_ones_own():
    known = {"format": None, "reward": 1.0, "parts": {"style": 1.0}}
    records = [record(0, GREEDY, **known)]
    records += [record(1, GREEDY, **known | {"reward": 0.5, "parts": {"b": 0.25}})]
    greedy = summarize(records)["greedy"]
    assert (greedy["format"], greedy["reward"]) == (None, 0.75)
    assert greedy["parts"] == {"b": 0.25, "style": 1.0}
    (line,) = describe(summarize(records), 0, 1.0)
    assert line.endswith("; cut off 0.0 %, 10 tokens, reward 0.75, b 0.25, style 1")


def test_refused_responses_are_counted_and_left_out():
    refused = dict.fromkeys(("correct", "format", "finish_reason", "tokens"))
    records = [record(0, GREEDY), record(1, GREEDY, refused="reward_timeout")]
    records += [record(2, GREEDY, **refused | {"refused": "request_failed"})]
    result = summarize(records)
    assert result["greedy"]["n"] == 1 and result["greedy"]["accuracy"] == 1
    assert result["refused"] == {"request_failed": 1, "reward_timeout": 1}
    assert result["average_at_k"] is None
    text = describe(result, 8, 1.0)
    assert text[0].startswith("greedy: 100.0 % (95 %: 20.7 to 100.0), 1 problems")
    assert text[-1].endswith("request_failed 1, reward_timeout 1")
