"""The reward function that the workflow calls, by its name, in a process of its own.

The process imports this module and nothing of torch, transformers or AReaL.
"""

from __future__ import annotations

from typing import Any

from areal_cppo.rewards.answers import final_answer, is_correct
from areal_cppo.rewards.format import has_format, without_end
from areal_cppo.rewards.second_opinion import second_opinion


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: str,
    **kwargs: Any,
) -> dict[str, float]:
    """Whether the answer is correct and the format kept.

    The weights are those of the block `reward` of the YAML, by default those of arXiv
    2601.00501: .9 and .1.

    Parameters
    ----------
    prompt
        As the model sees it: whether it offers choices, and opens `<think>`, counts.
    completions
        The decoded response, with or without its end token.
    answer
        The true answer.
    prompt_ids, completion_ids, kwargs
        Part of AReaL's signature; unused.

    Returns
    -------
    dict
        Parts `answer` and `format`, 0 or 1, and `judges_differ`: whether math-verify
        says otherwise of the answer; without it where it has no opinion.
    """
    text = without_end(completions)
    given, truth = final_answer(text), str(answer)
    correct = is_correct(given, truth, question=prompt)
    parts = {"answer": float(correct), "format": float(has_format(text, prompt))}
    opinion = second_opinion(given, truth)
    if opinion is not None:
        parts["judges_differ"] = float(opinion != correct)
    return parts
