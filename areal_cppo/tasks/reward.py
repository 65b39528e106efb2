"""The reward function that AReaL calls, by its name, in a process of its own."""

from __future__ import annotations

from typing import Any

from areal_cppo.tasks.responses import boxed_answer, has_format
from areal_cppo.tasks.vocabulary import EOS


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: int | str,
    *,
    answer_weight: float = 0.9,
    format_weight: float = 0.1,
    **kwargs: Any,
) -> float:
    """What the boxed number is worth if it is the sum, and the kept format.

    Parameters
    ----------
    completions
        The decoded response, with or without its `<eos>`.
    answer
        The sum.
    answer_weight, format_weight
        From the block `reward` of the YAML.
    prompt, prompt_ids, completion_ids, kwargs
        Part of AReaL's signature; unused.

    Returns
    -------
    float
        With the default weights, the `reward` of `responses.Score`.
    """
    text = completions.split(EOS, 1)[0]
    correct = boxed_answer(text) == int(answer)
    return answer_weight * correct + format_weight * has_format(text)
