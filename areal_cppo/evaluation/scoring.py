"""What a response is: right or wrong, in the format or not, by the training's reward.

The reward function of the task is called as in training, in processes of its own with
a time limit; its parts say what was correct and what was well-formed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal_cppo.rewards.answers import final_answer
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout
from areal_cppo.rollout.refusals import Refused
from areal_cppo.tasks.responses import REWARD_FN, boxed_answer

MAX_PROCESSES = 8


@dataclass(frozen=True)
class Verdict:
    """Attributes are those of a record: see `folder.EvaluationFolder`."""

    extracted: str | None
    correct: bool
    format: bool


class Scorer:
    """Judges responses; use it as a context manager, which ends its processes.

    Parameters
    ----------
    reward_fn
        `package.module.name` of the task's reward function.
    timeout_seconds
        Of one response.
    """

    def __init__(self, reward_fn: str, timeout_seconds: float) -> None:
        processes = min(MAX_PROCESSES, os.cpu_count() or 1)
        self._pool = RewardPool(reward_fn, timeout_seconds, processes)
        self._extract: Callable[[str], Any] = (
            boxed_answer if reward_fn == REWARD_FN else final_answer
        )

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    async def __call__(
        self,
        prompt: str,
        response: str,
        prompt_ids: list[int],
        response_ids: list[int],
        answer: str,
    ) -> Verdict:
        """Judge a response to a prompt.

        Raises
        ------
        Refused
            `reward_timeout` or `reward_error`, as in training.
        """
        call = self._pool.submit(
            prompt=prompt,
            completions=response,
            prompt_ids=prompt_ids,
            completion_ids=response_ids,
            answer=answer,
        )
        try:
            reward = await asyncio.wrap_future(call)
        except RewardTimeout as error:
            raise Refused("reward_timeout") from error
        except RewardError as error:
            raise Refused("reward_error") from error
        extracted = self._extract(response)
        return Verdict(
            None if extracted is None else str(extracted),
            reward.parts.get("answer", reward.value) == 1,
            reward.parts.get("format") == 1,
        )
