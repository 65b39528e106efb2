"""A reward in two parts; their weights are in config.yaml."""

import re

from areal_cppo.rewards import final_answer, is_correct

SEEN = r"(circle|square|triangle) [a-z]+"
LOOK = re.compile(rf"<think>{SEEN}(, {SEEN})*</think>")


def reward(completions, answer, question, **others):
    """Whether the answer is right, and whether the response names shapes before it."""
    right = is_correct(final_answer(completions), answer, question=question)
    return {"answer": right, "looks": bool(LOOK.match(completions))}
