"""From what a reward function returns to a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reward:
    """What a response is worth.

    Attributes
    ----------
    value
        What is trained on.
    parts
        What the reward function told apart, before weights; empty if it is one number.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:g}" for name, value in self.parts.items())
        return f"{self.value:g}" + (f" ({parts})" if parts else "")

    @classmethod
    def of(cls, result: Any, weights: Mapping[str, float]) -> Reward:
        """The weighted sum of the parts that a function returned, or its one number.

        Parameters
        ----------
        result
            A number, or a mapping of names to numbers; a bool is one.
        weights
            Of the parts; one without a weight is recorded and not paid for. One number
            is the reward, whatever the weights.

        Raises
        ------
        ValueError
            Nothing of the kind, not finite, a weight without its part, or no weight.
        """
        if not isinstance(result, Mapping):
            return cls(_number("the reward", result))
        parts = {str(k): _number(f"part {k}", v) for k, v in result.items()}
        missing = sorted(weights.keys() - parts.keys())
        if missing:
            raise ValueError(
                f"no part {', '.join(missing)}, which has a weight (reward.weights), "
                f"among {', '.join(sorted(parts)) or 'none'}"
            )
        if not weights:
            named = ", ".join(sorted(parts)) or "none"
            raise ValueError(f"parts ({named}) without weights; set reward.weights")
        return cls(sum(weights[name] * parts[name] for name in weights), parts)


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is of type {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}")
    return number
