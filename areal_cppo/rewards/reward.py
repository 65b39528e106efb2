"""The reward function that AReaL calls, by its name, in a process of its own.

The process imports this module and nothing of torch, transformers or AReaL.
"""

from __future__ import annotations

from typing import Any

from areal_cppo.rewards.answers import final_answer, is_correct
from areal_cppo.rewards.format import has_format, without_end


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: str,
    *,
    answer_weight: float = 0.9,
    format_weight: float = 0.1,
    **kwargs: Any,
) -> float:
    """`answer_weight` for a correct answer plus `format_weight` for a kept format.

    Parameters
    ----------
    completions
        The decoded response, with or without its end token.
    answer
        The true answer.
    answer_weight, format_weight
        From the block `reward` of the YAML; by default those of arXiv 2601.00501.
    prompt, prompt_ids, completion_ids, kwargs
        Part of AReaL's signature; unused.

    Returns
    -------
    float
        The reward.
    """
    text = without_end(completions)
    correct = is_correct(final_answer(text), str(answer))
    return answer_weight * correct + format_weight * has_format(text)
