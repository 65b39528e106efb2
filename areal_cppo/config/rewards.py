"""The block `reward` of the YAML: what a response is worth."""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.core.checks import Number, check_fields, setting


@dataclass
class RewardConfig:
    """Weights of the parts of a reward, and the time an answer may take to check.

    The published recipe: 0.9 for the answer, 0.1 for the format.
    """

    answer_weight: float = setting(0.9, Number(low=0), "reward of a correct answer")
    format_weight: float = setting(0.1, Number(low=0), "reward of a kept format")
    timeout_seconds: float = setting(
        10.0,
        Number(low=0, low_open=True),
        "time to check one answer, after which the response is refused",
    )
    processes: int = setting(
        4,
        Number(low=1, integer=True),
        "most processes that check answers, for each rollout worker",
    )

    def __post_init__(self) -> None:
        check_fields(self, "reward.")
