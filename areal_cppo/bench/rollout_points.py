"""What `bench rollout` measures at one concurrency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)


@dataclass
class Answer:
    """One request that was answered."""

    seconds: float
    tokens: int
    interrupted: bool
    first_token: float | None


@dataclass
class Point:
    """What was measured at one concurrency."""

    concurrency: int
    requests: int
    weight_update: bool
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    resent: int = 0
    failed: int = 0
    refused: int = 0
    update_seconds: float | None = None

    @property
    def done(self) -> int:
        """Requests that have come to an end."""
        return len(self.answers) + self.failed + self.refused

    def describe(self) -> dict[str, Any]:
        """As the JSON file has it."""
        tokens = sum(answer.tokens for answer in self.answers)
        latencies = [answer.seconds for answer in self.answers]
        firsts = [a.first_token for a in self.answers if a.first_token is not None]
        rate = 1 / self.seconds if self.seconds else 0.0
        return {
            "concurrency": self.concurrency,
            "weight_update": self.weight_update,
            "complete": self.done == self.requests,
            "requests": len(self.answers),
            "tokens": tokens,
            "seconds": self.seconds,
            "tokens_per_second": tokens * rate,
            "requests_per_second": len(self.answers) * rate,
            "mean_in_flight": sum(latencies) * rate,
            "latency_seconds": _summary(latencies),
            "first_token_seconds": _summary(firsts),
            "interrupted": sum(answer.interrupted for answer in self.answers),
            "resent": self.resent,
            "failed": self.failed,
            "refused": self.refused,
            "update_seconds": self.update_seconds,
        }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, PERCENTILES)
    named = {f"p{q}": float(v) for q, v in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(np.mean(values))} | named
