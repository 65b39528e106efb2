"""The prompt's text and the bare answer."""

from __future__ import annotations

import pytest

from areal_cppo.config.blocks import INSTRUCTION
from areal_cppo.data.problems import (
    PUBLIC,
    PromptBuilder,
    bare_answer,
    read_problem,
)
from tests.data.problem_files import HEAD, TAIL, VISION, prompt


@pytest.mark.parametrize(
    ("question", "n_images", "text"),
    [
        ("Which is longer?", 1, f"{VISION}Which is longer?"),
        ("Which is longer?", 3, f"{VISION * 3}Which is longer?"),
        ("Which is longer?", 0, "Which is longer?"),
        ("<image>\nFind x.", 1, f"{VISION}\nFind x."),
        ("Look: <image> Find x.", 1, f"Look: {VISION} Find x."),
        (
            "A <image>, B <image>: like <image>?",
            3,
            f"A {VISION}, B {VISION}: like {VISION}?",
        ),
        ("Two <image><image>", 2, f"Two {VISION * 2}"),
        # nothing is deleted, not even what other loaders delete, nor white space
        (
            "  <image>How many different items?  ",
            1,
            f"  {VISION}How many different items?  ",
        ),
        ("{{ 1 + 1 }} {% x %} é", 1, VISION + "{{ 1 + 1 }} {% x %} é"),
    ],
)
def test_the_prompt(processor, question, n_images, text):
    built = PromptBuilder(processor, INSTRUCTION).text(question, n_images)
    assert built == prompt(text)
    without = PromptBuilder(processor, "").text(question, n_images)
    assert without == f"{HEAD}{text}{TAIL}"


def test_the_instruction_asks_for_what_the_reward_looks_for():
    for part in ("<think>", "</think>", "\\boxed{}"):
        assert part in INSTRUCTION


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("5", "5"),
        ("  5 \n", "5"),
        ("\\boxed{5}", "5"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("not \\boxed{4} but \\boxed{ B }", "B"),
        ("<answer>5</answer>", "5"),
        ("<answer> \\boxed{5} </answer>", "5"),
        ("\\boxed{5", ""),
        ("\\boxed{}", ""),
        ("x < 3", "x < 3"),
    ],
)
def test_answers_lose_their_wrapping(written, bare):
    assert bare_answer(written) == bare


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (5.0, "5"), (2.5, "2.5"), (None, ""), (float("nan"), ""), ([], "")],
)
def test_answers_that_are_numbers(tmp_path, value, text):
    row = {"problem": "?", "answer": value, "images": None}
    assert read_problem(row, PUBLIC["geometry3k"], "name", tmp_path).answer == text
