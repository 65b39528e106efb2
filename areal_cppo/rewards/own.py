"""A reward function of a user's own, looked at before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout

REWARD_FN = "areal_cppo.rewards.reward.reward_fn"  # ours, for answers in boxes
GIVEN = ("prompt", "completions", "prompt_ids", "completion_ids")  # to any function
OF_A_PROBLEM = ("answer", "question", "query_id")  # what every task can tell


def arguments(
    problem: Mapping[str, Any], sees: Iterable[str], response: str, tokenizer
) -> dict[str, Any]:
    """What a function is called with for a text, where no tokens were generated.

    Parameters
    ----------
    problem
        An item of a dataset: its prompt has one token an image here.
    """
    prompt = problem["messages"]
    ids = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (prompt, response)
    ]
    given = dict(zip(GIVEN, (prompt, response, *ids), strict=True))
    return given | {name: problem[name] for name in sees}


def check_function(function: str, sees: Iterable[str]) -> None:
    """See in a process of its own that a function is there and takes its keywords.

    Parameters
    ----------
    function
        As `reward.function` has it.
    sees
        What it is told of a problem.

    Raises
    ------
    UserError
        It can't be imported or called.
    """
    with RewardPool(function, timeout_seconds=60.0, processes=1) as pool:
        check_pool(pool, sees)


def check_pool(pool: RewardPool, sees: Iterable[str]) -> None:
    """The same of a pool's function."""
    try:
        pool.check([*GIVEN, *sees])
    except (RewardError, RewardTimeout) as error:
        raise UserError(
            f"reward.function: expected a function to call, {pool.function}, found "
            f"{error}; correct it (docs/rewards.md)"
        ) from None
