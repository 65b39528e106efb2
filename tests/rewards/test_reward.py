"""What a response is worth: its answer, its format, and their weights."""

from __future__ import annotations

import pytest

from areal_cppo.rewards.format import has_format
from areal_cppo.rewards.reward import reward_fn

GOOD = r"<think>3+2</think>\boxed{5}"


@pytest.mark.parametrize(
    "response",
    [
        GOOD,
        GOOD + "<|im_end|>",
        "<think>3+2\n\nis 5</think>\n\nThe answer is \\boxed{\\frac{10}{2}}.\n<eos>",
    ],
)
def test_format_is_thinking_then_a_box(response):
    assert has_format(response)


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{5}",  # no thinking
        r"\boxed{5}<think>3+2</think>",  # the wrong way round
        r"<think>3+2\boxed{5}</think>",  # the box is inside
        r"<think>3+2</think>5",
        r"<think>3+2</think>\boxed{5",
        r"<think>3+2</think>\boxed{}",
        r"<think></think>\boxed{5}",
        r"<think> </think>\boxed{5}",
        r"Well, <think>3+2</think>\boxed{5}",
        r"<think>3+2</think>\boxed{5}\boxed{5}",
        r"<think>\boxed{4}</think>\boxed{5}",
        r"<think>3</think><think>2</think>\boxed{5}",
        r"<think>3<think>2</think>\boxed{5}",
        "",
    ],
)
def test_anything_else_is_not(response):
    assert not has_format(response)


def reward(response: str, answer="5", **weights) -> float:
    return reward_fn("How many?", response, [1, 2], [3, 4], answer, **weights)


def test_published_weights():
    assert reward(GOOD) == pytest.approx(1.0)
    assert reward(r"It is \boxed{5}<|im_end|>") == pytest.approx(0.9)
    assert reward(r"<think>3+3</think>\boxed{6}") == pytest.approx(0.1)
    assert reward("5") == 0


def test_weights_of_the_configuration():
    weights = {"answer_weight": 2.0, "format_weight": 0.5}
    assert reward(GOOD, **weights) == 2.5
    assert reward(r"\boxed{5}", **weights) == 2.0


def test_a_number_as_true_answer():
    assert reward(GOOD, answer=5) == pytest.approx(1.0)
