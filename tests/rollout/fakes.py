"""A fake engine for the workflow, outcomes of responses, and what became of them."""

from __future__ import annotations

import asyncio

from areal.api import ModelResponse
from areal.utils import stats_tracker

from areal_cppo.rollout.refusals import REASONS, REFUSED
from tests.rollout.reward_cases import HANG, RAISE

FINE = [9, 10, 1]
IMAGE = 4
REFUSALS = {
    "vision_token": [9, IMAGE, 1],
    "request_failed": RuntimeError("Payload: <image>. Last error: TimeoutError()"),
    "reward_error": [9, RAISE, 1],
    "reward_timeout": [9, HANG, 1],
}


class FakeEngine:
    """Answers each request with the next outcome: tokens, or an error to raise."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.requests = []

    def get_version(self):
        return 3

    async def agenerate(self, req):
        self.requests.append(req)
        outcome = self.outcomes[len(self.requests) - 1]
        await asyncio.sleep(0)  # as others are in flight
        if isinstance(outcome, Exception):
            raise outcome
        return ModelResponse(
            input_tokens=list(req.input_ids),
            output_tokens=outcome,
            output_logprobs=[-0.5] * len(outcome),
            output_versions=[3] * len(outcome),
        )


class CountingProcessor:
    def __init__(self, processor):
        self.processor = processor
        self.calls = 0

    def __call__(self, **kwargs):
        self.calls += 1
        return self.processor(**kwargs)


def run(workflow, data, *outcomes):
    """A group with these outcomes: its trajectory, and its refusals as totals."""
    engine = FakeEngine(*outcomes)
    got = asyncio.run(workflow.arun_group(engine, data, len(outcomes)))
    return got, totals(), engine


def totals() -> dict[str, float]:
    stats = stats_tracker.get("rollout").export()
    counted = {}
    for key, mean in stats.items():
        if REFUSED in key and not key.endswith("__count"):
            counted[key.split(REFUSED)[1]] = round(mean * stats[f"{key}__count"])
    assert set(counted) - {"group_dropped", "group_all_equal"} == set(REASONS)
    return {reason: total for reason, total in counted.items() if total}
