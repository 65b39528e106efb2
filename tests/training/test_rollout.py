"""Refused responses: at the request, at the end, and in the statistics. No server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch
from areal import workflow_context
from areal.api import ModelRequest
from areal.infra.controller import RolloutController
from areal.utils import stats_tracker
from areal.workflow.vision_rlvr import VisionRLVRWorkflow

from areal_cppo.training.rollout import (
    CPPOBackend,
    CPPORolloutController,
    VisionTokenSampled,
)
from areal_cppo.training.workflow import CPPOWorkflow
from areal_cppo.triangles.tokenizer import build_tokenizer

PROMPT = [2, 4, 4, 4, 3, 24]  # vision start, three image tokens, vision end, a space


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def request(tokenizer, response: list[int]) -> ModelRequest:
    return ModelRequest(
        input_ids=PROMPT + response, image_data=["an image"], tokenizer=tokenizer
    )


def test_a_first_request_is_areals_own(tokenizer):
    got = CPPOBackend().build_generation_request(request(tokenizer, []), False, 0)
    assert got.payload["input_ids"] == PROMPT


@pytest.mark.parametrize("token", [4, 5])
def test_a_continued_response_with_an_image_token_is_refused(tokenizer, token):
    CPPOBackend().build_generation_request(request(tokenizer, [9, 10]), False, 0)
    with pytest.raises(VisionTokenSampled):
        CPPOBackend().build_generation_request(
            request(tokenizer, [9, token, 10]), False, 0
        )


def run_workflow(monkeypatch, tokenizer, outcome):
    """`CPPOWorkflow` on a stock workflow that answers with `outcome`."""

    async def stock(self, engine, data):
        if isinstance(outcome, Exception):
            raise outcome
        ids = PROMPT + outcome
        mask = [0] * len(PROMPT) + [1] * len(outcome)
        return {"input_ids": torch.tensor([ids]), "loss_mask": torch.tensor([mask])}

    monkeypatch.setattr(VisionRLVRWorkflow, "arun_episode", stock)
    gconfig = SimpleNamespace(new_with_stop_and_pad_token_ids=lambda t: None)
    workflow = CPPOWorkflow(lambda: 0, gconfig, tokenizer, processor=object())
    got = asyncio.run(workflow.arun_episode(None, {}))
    scope = stats_tracker.get(workflow_context.stat_scope())
    return got, scope.export()


@pytest.mark.parametrize("token", [2, 3, 4, 5])
def test_a_finished_response_with_a_vision_token_is_refused(
    monkeypatch, tokenizer, token
):
    got, stats = run_workflow(monkeypatch, tokenizer, [9, token, 1])
    assert got is None
    assert [v for k, v in stats.items() if k.endswith("refused/vision_token")] == [1.0]


def test_an_interrupted_response_is_refused(monkeypatch, tokenizer):
    got, stats = run_workflow(monkeypatch, tokenizer, VisionTokenSampled())
    assert got is None
    assert [v for k, v in stats.items() if k.endswith("refused/vision_token")] == [1.0]


def test_an_ordinary_response_is_kept(monkeypatch, tokenizer):
    got, stats = run_workflow(monkeypatch, tokenizer, [9, 10, 1])
    assert got is not None  # the image tokens of the prompt don't count
    assert [v for k, v in stats.items() if k.endswith("refused/vision_token")] == [0.0]


def test_totals_over_workers(monkeypatch):
    replies = [
        {
            "rollout/refused/vision_token": 0.25,
            "rollout/refused/vision_token__count": 8,
            "rollout/reward": 0.5,
            "rollout/reward__count": 8,
        },
        {
            "rollout/refused/vision_token": 1.0,
            "rollout/refused/vision_token__count": 1,
        },
        {},
    ]
    monkeypatch.setattr(RolloutController, "_collective_rpc", lambda *a, **k: replies)
    controller = CPPORolloutController.__new__(CPPORolloutController)
    stats = controller.export_stats()
    assert stats["rollout/refused/vision_token/total"] == 3
    assert stats["rollout/refused/vision_token"] == pytest.approx(3 / 9)
    assert stats["rollout/reward"] == 0.5
