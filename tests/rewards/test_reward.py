"""What a response is: its answer right, its format kept."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.rewards.answers import final_answer
from areal_cppo.rewards.format import has_format, without_end
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


CHAT = "<|im_start|>system\nThink first.<|im_end|>\n<|im_start|>assistant\n"
REST = r"3+2</think>\boxed{5}"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", " \t\n"])
@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (REST, True),
        (f"\n{REST}<|im_end|>", True),
        (GOOD, False),  # opened twice
        (rf"3+2<think>{REST}", False),
        (r"3+2 is \boxed{5}", False),  # never closed
        (r" </think>\boxed{5}", False),
        (r"3+2</think>5", False),
    ],
)
def test_the_template_may_open_the_thought(end, response, kept):
    assert has_format(response, f"{CHAT}<think>{end}") == kept


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        CHAT,
        CHAT.replace("Think first.", "Write <think> first."),
        CHAT + "<think>\n\n</think>\n\n",  # of templates that turn thinking off
        CHAT + "<think>Well,",
        "<think>" + CHAT,
    ],
)
def test_a_prompt_that_opens_no_thought(prompt):
    assert has_format(GOOD, prompt) and not has_format(REST, prompt)


PIECES = (*"<|im_end|>", "<|im_end|>", "<eos>", "</s>", " ", "\n", "eos>", "x")


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_all_tokens_at_the_end_are_taken_off(text):
    expected, before = text, None
    while expected != before:
        before = expected
        expected = re.sub(r"(<\|[a-z_]+\|>|<eos>|</s>)\Z", "", expected.rstrip())
    assert without_end(text) == expected


N = 30_000


@pytest.mark.parametrize(
    "text",
    [
        *(t * N + "x" for t in ("<|im_end|>", "<eos>", "</s> ", "<think>", " ")),
        *(t * N for t in ("<eos>", "</think>", "<|a", "<|", r"\boxed", r"\boxed{")),
        *("}" * N, "{" * N, r"\boxed" + " " * N, "<|" + "a" * N, "\\" * N),
        "<think>x</think>" + r"\boxed{" + "{" * N + "}" * (N + 1) + "<eos>" * N + "x",
        "<think>" + "x</think" * N + r"</think>\boxed{5}" + "\n<eos>" * N,
    ],
    ids=lambda text: f"{text[:12]}..{text[-3:]}",
)
def test_time_is_linear_in_the_response(text):
    started = time.process_time()
    has_format(text)
    has_format(text, "<think>")
    final_answer(text)
    # Milliseconds; what is quadratic takes seconds and more.
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    ("response", "prompt", "answer", "parts"),
    [
        (GOOD, CHAT, "5", (1.0, 1.0)),
        (GOOD, CHAT, 5, (1.0, 1.0)),  # a number as the true answer
        (REST, CHAT, "5", (1.0, 0.0)),
        (REST, CHAT + "<think>\n", "5", (1.0, 1.0)),
        (r"It is \boxed{5}<|im_end|>", CHAT, "5", (1.0, 0.0)),
        (r"<think>3+3</think>\boxed{6}", CHAT, "5", (0.0, 1.0)),
        ("5", CHAT, "5", (0.0, 0.0)),
    ],
)
def test_answer_and_format_are_told_apart(response, prompt, answer, parts):
    found = reward_fn(prompt, response, [1, 2], [3, 4], answer)
    assert (found["answer"], found["format"]) == parts
