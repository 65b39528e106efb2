"""The reward function called before a run starts, on a problem of its own data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoTokenizer

from areal_cppo.config.blocks import RewardConfig
from areal_cppo.errors import UserError
from areal_cppo.rewards.own import arguments
from areal_cppo.rewards.parts import Reward
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout


def try_reward(
    workflow_kwargs: Mapping[str, Any], problem: Mapping[str, Any]
) -> list[str]:
    """What the true answer in a box, and nothing, are worth as responses: a line.

    Parameters
    ----------
    workflow_kwargs
        Of the task.
    problem
        An item of its dataset.

    Returns
    -------
    list[str]
        The line, and a warning if both are worth the same.

    Raises
    ------
    UserError
        The function fails.
    """
    settings = RewardConfig(**workflow_kwargs["reward"])
    tokenizer = AutoTokenizer.from_pretrained(workflow_kwargs["tokenizer"])
    cases = {
        "the true answer": rf"\boxed{{{problem['answer']}}}",
        "an empty response": "",
    }
    rewards: list[Reward] = []
    function = workflow_kwargs["reward_fn"]
    with RewardPool(
        function, settings.timeout_seconds, 1, settings.part_weights
    ) as pool:
        for case, response in cases.items():
            given = arguments(problem, settings.sees, response, tokenizer)
            try:
                rewards.append(pool.submit(**given).result())
            except (RewardError, RewardTimeout) as error:
                raise UserError(
                    f"reward.function: expected a number or parts by name, found for "
                    f"{case} of problem {problem['query_id']}: {error}; correct "
                    f"{function}"
                ) from None
    if settings.weights and not any(reward.parts for reward in rewards):
        raise UserError(
            f"reward.weights: expected parts {', '.join(settings.weights)} from "
            f"{function}, found one number; return a dict, or leave them out "
            "(~reward.weights)"
        )
    said = ", ".join(
        f"for {case} {reward}" for case, reward in zip(cases, rewards, strict=True)
    )
    lines = [f"reward: {said}"]
    if rewards[0].value == rewards[1].value:
        lines.append(
            "warning: reward: the true answer in a box is worth as much as nothing at "
            "all; see that the function reads responses as your prompt asks for them"
        )
    return lines
