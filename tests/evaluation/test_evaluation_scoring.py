"""Verdicts by the training's reward functions, in processes with a time limit."""

from __future__ import annotations

import asyncio

import pytest

from areal_cppo.config.blocks import RewardConfig
from areal_cppo.evaluation.scoring import Scorer
from areal_cppo.rollout.refusals import Refused
from areal_cppo.tasks.responses import REWARD_FN

SLOW = "tests.evaluation.slow_rewards"
PROBLEMS = "areal_cppo.rewards.reward.reward_fn"


def judge(scorer: Scorer, response: str, answer):
    return asyncio.run(scorer("a prompt", response, [1], [2], {"answer": answer}))


@pytest.mark.parametrize(
    "response, extracted, correct, kept",
    [
        (r"<think>1+1</think>\boxed{12}", "12", True, True),
        (r"<think>1+1</think>\boxed{13}", "13", False, True),
        (r"\boxed{12}", "12", True, False),
        ("12", None, False, False),
    ],
)
def test_verdicts(response, extracted, correct, kept):
    for function, end in ((REWARD_FN, "<eos>"), (PROBLEMS, "<|im_end|>")):
        with Scorer(function, RewardConfig()) as scorer:
            verdict = judge(scorer, response + end, "12")
        assert verdict.extracted == extracted
        assert (verdict.correct, verdict.format) == (correct, kept)
        assert verdict.reward == pytest.approx(0.9 * correct + 0.1 * kept)
        assert verdict.parts["answer"] == correct


def test_mathematics_is_judged_as_mathematics():
    with Scorer(PROBLEMS, RewardConfig()) as scorer:
        verdict = judge(scorer, r"<think>x</think>\boxed{\frac{1}{2}}", "0.5")
        assert verdict.correct and verdict.extracted == r"\frac{1}{2}"
        assert not judge(scorer, r"<think>x</think>\boxed{0.05}", "0.5").correct


def test_an_answer_that_takes_too_long_is_refused_and_the_next_one_judged():
    reward = RewardConfig(timeout_seconds=0.5)
    with Scorer("tests.evaluation.slow_rewards.hangs", reward) as scorer:
        with pytest.raises(Refused, match="reward_timeout"):
            judge(scorer, "", "hang")
        assert judge(scorer, "", "1").correct


def test_a_reward_that_raises_is_refused():
    with Scorer("tests.evaluation.slow_rewards.raises", RewardConfig()) as scorer:
        with pytest.raises(Refused, match="reward_error"):
            judge(scorer, "", "1")


@pytest.mark.parametrize(
    ("name", "weights", "correct", "kept", "reward"),
    [
        ("number", {}, False, None, 0.6),  # less than what counts as correct
        ("parts", {"length": 0.25}, True, None, 1.0),
        ("graded", {"answer": 9.0}, False, False, 4.5),  # half an answer is none
    ],
)
def test_a_function_of_ones_own(name, weights, correct, kept, reward):
    own = f"{SLOW}:{name}"
    config = RewardConfig(function=own, sees=["answer", "unit"], weights=weights)
    problem = {"answer": "1", "unit": "cm", "images": [object()]}
    with Scorer(own, config, correct_reward=0.7) as scorer:
        verdict = asyncio.run(scorer("?", "1 cm", [1], [2], problem))
    assert (verdict.correct, verdict.format) == (correct, kept)
    assert verdict.reward == reward
    assert bool(verdict.parts) == bool(weights)
