"""The reward function that AReaL calls, by its name, in a process of its own."""

from __future__ import annotations

from typing import Any

from areal_cppo.triangles.task import EOS, boxed_answer, has_format


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: int | str,
    **kwargs: Any,
) -> float:
    """0.9 if the boxed number is the perimeter, plus 0.1 if the format is kept.

    Parameters
    ----------
    completions
        The decoded response, with or without its `<eos>`.
    answer
        The perimeter.
    prompt, prompt_ids, completion_ids, kwargs
        Part of AReaL's signature (`kwargs` is the rest of the dataset's item); unused.

    Returns
    -------
    float
        0.0, 0.1, 0.9 or 1.0; the `reward` of `task.score_response`.
    """
    text = completions.split(EOS, 1)[0]
    return 0.9 * (boxed_answer(text) == int(answer)) + 0.1 * has_format(text)
