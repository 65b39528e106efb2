"""What a response is: right or wrong, in the format or not, by the training's reward.

The reward function of the task is called as in training, in processes of its own with
a time limit; its parts say what was correct and what was well-formed. Of a function
without a part `answer` a response is correct that is worth more than
`actor.correct_reward`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from areal_cppo.config.blocks import RewardConfig
from areal_cppo.rewards.answers import final_answer
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout
from areal_cppo.rollout.refusals import Refused
from areal_cppo.tasks.responses import REWARD_FN, boxed_answer

MAX_PROCESSES = 8
_CALLED_WITH = ("prompt", "completions", "prompt_ids", "completion_ids")


@dataclass(frozen=True)
class Verdict:
    """Attributes are those of a record: see `folder.EvaluationFolder`."""

    extracted: str | None
    correct: bool
    format: bool | None
    reward: float
    parts: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Judges responses; use it as a context manager, which ends its processes.

    Parameters
    ----------
    reward_fn
        Where the task's reward function is (`rewards/loading.py`).
    reward
        Its weights, what it sees of a problem, and its time limit.
    correct_reward
        `actor.correct_reward`.
    """

    def __init__(
        self, reward_fn: str, reward: RewardConfig, correct_reward: float = 0.5
    ) -> None:
        processes = min(MAX_PROCESSES, os.cpu_count() or 1)
        self._pool = RewardPool(
            reward_fn, reward.timeout_seconds, processes, reward.part_weights
        )
        self._sees, self._correct_reward = reward.sees, correct_reward
        self._extract: Callable[[str], Any] = (
            boxed_answer if reward_fn == REWARD_FN else final_answer
        )

    def __enter__(self) -> Scorer:
        # One process is ready before there are answers: until an answer is judged, it
        # would be lost with whatever ends the evaluation. A function that isn't there
        # is told of by the first of them.
        with contextlib.suppress(RewardError, RewardTimeout):
            self._pool.check([*_CALLED_WITH, *self._sees])
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    async def __call__(
        self,
        prompt: str,
        response: str,
        prompt_ids: list[int],
        response_ids: list[int],
        problem: Mapping[str, Any],
    ) -> Verdict:
        """Judge a response to a prompt; `problem` is the item of the dataset.

        Raises
        ------
        Refused
            `reward_timeout` or `reward_error`, as in training.
        """
        called_with = prompt, response, prompt_ids, response_ids
        call = self._pool.submit(
            **dict(zip(_CALLED_WITH, called_with, strict=True)),
            **{name: problem[name] for name in self._sees},
        )
        try:
            reward = await asyncio.wrap_future(call)
        except RewardTimeout as error:
            raise Refused("reward_timeout") from error
        except RewardError as error:
            raise Refused("reward_error") from error
        extracted, parts = self._extract(response), reward.parts
        return Verdict(
            None if extracted is None else str(extracted),
            parts["answer"] >= 1
            if "answer" in parts
            else reward.value > self._correct_reward,
            parts["format"] >= 1 if "format" in parts else None,
            reward.value,
            parts,
        )
