"""The client of the generation servers: what it sends, stamps, groups and counts.

The server is a scripted one. What the workflow refuses: test_workflow.py.
"""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

import pytest
from areal.api import ModelRequest, RolloutWorkflow
from areal.api.cli_args import GenerationHyperparameters
from areal.infra.controller import RolloutController
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.utils import stats_tracker
from transformers import AutoProcessor

from areal_cppo.config.engines import CPPORolloutConfig
from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.controller import CPPORolloutController, CPPORolloutEngine
from areal_cppo.rollout.engine import CPPOInfEngine
from areal_cppo.rollout.refusals import VisionTokenSampled
from areal_cppo.rollout.requests import CPPOBackend
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import logger as request_logger
from areal_cppo.rollout.workflow import logger as workflow_logger
from areal_cppo.tasks.problems import TRIANGLES, ReadingDataset
from areal_cppo.tasks.tokenizer import build_tokenizer
from tests.scripted_server import ScriptedServer, answer

PROMPT = [2, 4, 4, 4, 3, 24]  # vision start, three image tokens, vision end, a space


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def request(tokenizer, response: list[int]) -> ModelRequest:
    return ModelRequest(
        input_ids=PROMPT + response,
        image_data=["an image"],
        tokenizer=tokenizer,
        gconfig=GenerationHyperparameters(max_new_tokens=8),
    )


def test_a_first_request_is_areals_own(tokenizer):
    got = CPPOBackend().build_generation_request(request(tokenizer, []), False, 0)
    assert got.payload["input_ids"] == PROMPT


@pytest.mark.parametrize("wrong", [[9, 4, 10], [9, 5, 10], [9, 2]])
def test_a_continued_response_with_an_image_token_is_refused(tokenizer, wrong):
    """Also with the mark of one at its end; with text behind it, it is a mere word."""
    for good in ([9, 10], [9, 2, 10]):
        CPPOBackend().build_generation_request(request(tokenizer, good), False, 0)
    with pytest.raises(VisionTokenSampled):
        CPPOBackend().build_generation_request(request(tokenizer, wrong), False, 0)


def generate(engine: CPPOInfEngine, req: ModelRequest):
    engine.workflow_executor = SimpleNamespace(is_paused=lambda: False)
    return asyncio.run(engine.agenerate(req))


def make_engine(server: ScriptedServer) -> CPPOInfEngine:
    config = CPPORolloutConfig(backend="sglang:d1")
    engine = CPPOInfEngine(config, CPPOBackend())
    engine.fleet = Fleet([server.address])
    return engine


def test_tokens_have_the_version_their_request_was_sent_with(tokenizer):
    """Each reply arrives after a weight update; two of them cut a response short."""
    parts = [([9, 10, 11], "abort"), ([], "abort"), ([12, 13], "stop")]

    def reply(payload):
        engine.set_version(engine.get_version() + 1)  # the trainer was faster
        return 200, answer(*parts[len(server.requests) - 1])

    with ScriptedServer(reply) as server:
        engine = make_engine(server)
        engine.set_version(7)
        req = request(tokenizer, [])
        response = generate(engine, req)
    assert response.output_tokens == [9, 10, 11, 12, 13]
    assert response.output_versions == [7, 7, 7, 9, 9]
    sent = [payload["input_ids"] for payload in server.requests]
    assert sent == [PROMPT, PROMPT + [9, 10, 11], PROMPT + [9, 10, 11]]
    assert req.metadata == {}  # the caller's request is as it was


def test_responses_in_flight_do_not_share_versions(tokenizer):
    """The second is sent after an update that the first has not survived yet."""

    def reply(payload):
        if payload["input_ids"][-1] == 25:
            return 200, answer([9, 9, 9])
        engine.set_version(1)
        return 200, answer([8])

    async def both():
        first = await engine.agenerate(request(tokenizer, []))
        second = engine.agenerate(request(tokenizer, [25]))
        third = engine.agenerate(request(tokenizer, [25]))
        return [first, *await asyncio.gather(second, third)]

    with ScriptedServer(reply) as server:
        engine = make_engine(server)
        engine.workflow_executor = SimpleNamespace(is_paused=lambda: False)
        responses = asyncio.run(both())
    assert [r.output_versions for r in responses] == [[0], [1] * 3, [1] * 3]


class OtherWorkflow(RolloutWorkflow):
    async def arun_episode(self, engine, data):
        return None


def test_other_workflows_are_grouped_by_areal(tokenizer):
    engine = CPPOInfEngine(CPPORolloutConfig(backend="sglang:d1"), CPPOBackend())
    engine.logger = None
    workflow = OtherWorkflow()
    assert engine._resolve_workflow(workflow, None, 1) is workflow
    grouped = engine._resolve_workflow(workflow, None, 4)
    assert type(grouped) is GroupedRolloutWorkflow and grouped.group_size == 4


def test_a_group_through_areals_executor(monkeypatch, caplog):
    """Three responses asked for, one request fails: two rows, and no image in a log."""
    asked = itertools.count(1)

    def reply(payload):
        if next(asked) == 2:
            return 500, {"error": "out of memory"}
        return 200, answer([7, 16, 8, 9, 1])

    processor = AutoProcessor.from_pretrained(TRIANGLES.checkpoint)
    dataset = ReadingDataset(TRIANGLES, processor, 1, 0)
    kwargs = {
        "reward_fn": "areal_cppo.tasks.responses.reward_fn",
        "gconfig": GenerationHyperparameters(max_new_tokens=8),
        "tokenizer": str(TRIANGLES.checkpoint),
        "processor": str(TRIANGLES.checkpoint),
        "reward": {"timeout_seconds": 30.0},
    }
    stats_tracker.get("rollout").export()
    for logger in (workflow_logger, request_logger):
        monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with ScriptedServer(reply) as server:
        config = CPPORolloutConfig(
            backend="sglang:d1",
            max_concurrent_rollouts=4,
            consumer_batch_size=1,
            servers=ServersConfig(request_attempts=1),
        )
        engine = CPPORolloutEngine(config)
        engine.initialize(engine_id="test", addr=[server.address])
        try:
            engine.submit(
                dataset[0],
                "areal_cppo.rollout.workflow.CPPOWorkflow",
                kwargs,
                group_size=3,
            )
            (trajectory,) = engine.wait(1, timeout=60)
        finally:
            engine.destroy()
    assert len(server.requests) == 3
    images = {tuple(payload["image_data"]) for payload in server.requests}
    assert len(images) == 1
    assert trajectory["input_ids"].shape[0] == len(trajectory["multi_modal_input"]) == 2
    stats = stats_tracker.get("rollout").export()
    refused = [v for k, v in stats.items() if k.endswith("refused/request_failed")]
    assert refused == [pytest.approx(1 / 3)]
    dropped = [v for k, v in stats.items() if k.endswith("refused/group_dropped")]
    assert dropped == [0.0]  # looked at as a group, by the workflow
    assert "status 500 (attempt 1 of 1)" in caplog.text
    assert images.pop()[0] not in caplog.text


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
