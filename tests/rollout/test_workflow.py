"""The workflow: what a group shares, what is refused, what becomes of the rest.

The engine is a fake that answers with given tokens; processor, tokenizer and reward
processes are real. Requests over HTTP: test_rollout.py.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import Future

import pytest
import torch
from areal import workflow_context
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.infra.workflow_context import WorkflowContext
from areal.utils import stats_tracker
from transformers import AutoProcessor

from areal_cppo.rewards.parts import Reward
from areal_cppo.rollout import workflow as module
from areal_cppo.rollout.refusals import REASONS, REFUSED, VisionTokenSampled
from areal_cppo.rollout.workflow import CPPOWorkflow
from areal_cppo.tasks.problems import TRIANGLES, ReadingDataset
from tests.rollout.reward_cases import HANG, RAISE

FINE = [9, 10, 1]
IMAGE = 4


class FakeEngine:
    """Answers each request with the next outcome: tokens, or an error to raise."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.requests = []

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


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def problem(processor):
    return ReadingDataset(TRIANGLES, processor, 1, seed=0)[0]


@pytest.fixture
def make_workflow(processor):
    stats_tracker.get("rollout").export()

    def make(processor=processor, **kwargs):
        settings = {
            "reward_fn": "tests.rollout.reward_cases.by_token",
            "gconfig": GenerationHyperparameters(max_new_tokens=8, max_tokens=100),
            "tokenizer": str(TRIANGLES.checkpoint),
            "reward": {"timeout_seconds": 20.0},
        }
        return CPPOWorkflow(processor=processor, **settings | kwargs)

    return make


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


def test_a_group_of_fine_responses(make_workflow, problem):
    got, refused, engine = run(make_workflow(), problem, FINE, [9, 1], FINE)
    assert refused == {}
    prompt = engine.requests[0].input_ids
    assert got["input_ids"][0].tolist() == prompt + FINE
    assert got["input_ids"][1].tolist() == prompt + [9, 1, 0]  # padded
    assert got["attention_mask"].sum(1).tolist() == [len(prompt) + n for n in (3, 2, 3)]
    assert got["loss_mask"].sum(1).tolist() == [3, 2, 3]
    assert got["versions"][0].tolist() == [-1] * len(prompt) + [3] * 3
    assert got["rewards"].tolist() == [3.0, 2.0, 3.0]
    image = got["mm_token_type_ids"][0].bool()
    assert (got["input_ids"][0][image] == IMAGE).all() and image.sum() == 9
    assert len(got["multi_modal_input"]) == 3
    assert set(got["multi_modal_input"][0]) == {"pixel_values", "image_grid_thw"}
    assert len({request.rid for request in engine.requests}) == 3


def test_the_image_is_processed_and_encoded_once_per_group(
    make_workflow, processor, problem, monkeypatch
):
    encoded = []
    encode = module.image2base64
    monkeypatch.setattr(
        module, "image2base64", lambda images: encoded.append(images) or encode(images)
    )
    counting = CountingProcessor(processor)
    workflow = make_workflow(processor=counting)
    got, _, engine = run(workflow, problem, *[FINE] * 6)
    assert counting.calls == len(encoded) == 1
    assert {id(request.image_data) for request in engine.requests} == {
        id(engine.requests[0].image_data)
    }
    first, *others = got["multi_modal_input"]
    assert "pixel_values" in first and others == [{"same_as": 0}] * 5
    run(workflow, problem, FINE, FINE)
    assert counting.calls == 2  # nothing is kept from one group to the next


def test_what_a_group_shared_is_freed_with_it(make_workflow, problem, monkeypatch):
    made = []
    prepare = CPPOWorkflow._prepare

    async def spy(self, data):
        prompt = await prepare(self, data)
        made.append(weakref.ref(prompt))
        return prompt

    monkeypatch.setattr(CPPOWorkflow, "_prepare", spy)
    workflow = make_workflow()
    got, _, _ = run(workflow, problem, FINE, FINE)
    gc.collect()
    assert got is not None and made[0]() is None


class SpyPool:
    def __init__(self):
        self.calls = []

    def submit(self, **arguments):
        self.calls.append(arguments)
        done = Future()
        done.set_result(Reward(1.0))
        return done


def test_the_reward_is_told_what_it_sees_and_nothing_else_of_the_item(
    make_workflow, problem
):
    workflow = make_workflow(reward={"answer_weight": 0.5, "format_weight": 0.25})
    assert workflow._rewards.weights == {"answer": 0.5, "format": 0.25}
    workflow._rewards = spy = SpyPool()
    _, _, engine = run(workflow, problem, FINE)
    (call,) = spy.calls
    assert set(problem) - {"answer"} >= {"images", "query_id", "values"}
    assert call == {
        "prompt": workflow.tokenizer.decode(engine.requests[0].input_ids),
        "completions": workflow.tokenizer.decode(FINE),
        "prompt_ids": engine.requests[0].input_ids,
        "completion_ids": FINE,
        "answer": problem["answer"],
    }
    seen = ["question", "values"]
    workflow = make_workflow(reward={"function": "a:f", "sees": seen})
    assert workflow._rewards.weights == {}
    workflow._rewards = SpyPool()
    run(workflow, problem, FINE)
    told = {name: workflow._rewards.calls[0].pop(name) for name in seen}
    assert told == {name: problem[name] for name in seen}
    assert set(workflow._rewards.calls[0]) == set(call) - {"answer"}


REFUSALS = {
    "vision_token": [9, IMAGE, 1],
    "request_failed": RuntimeError("Payload: <image>. Last error: TimeoutError()"),
    "reward_error": [9, RAISE, 1],
    "reward_timeout": [9, HANG, 1],
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_one_failed_response_costs_only_itself(make_workflow, problem, reason):
    workflow = make_workflow(reward={"timeout_seconds": 2.0})
    got, refused, _ = run(workflow, problem, FINE, REFUSALS[reason], [9, 1])
    assert refused == {reason: 1}
    assert got["rewards"].tolist() == [3.0, 2.0]  # refused, not scored 0
    first, other = got["multi_modal_input"]
    assert set(first) == {"pixel_values", "image_grid_thw"}
    assert other == {"same_as": 0}


@pytest.mark.parametrize("reason", ["vision_token", "request_failed", "reward_error"])
def test_or_the_whole_group_if_the_configuration_says_so(
    make_workflow, problem, reason
):
    workflow = make_workflow(groups={"on_failed_response": "drop"})
    got, refused, _ = run(workflow, problem, FINE, REFUSALS[reason], FINE)
    assert got is None
    assert refused == {reason: 1, "group_dropped": 1}
    got, refused, _ = run(workflow, problem, FINE, FINE)
    assert got is not None and refused == {}


def test_a_response_that_is_left_alone_is_dropped_too(make_workflow, problem):
    bad = REFUSALS["vision_token"]
    got, refused, _ = run(make_workflow(), problem, bad, FINE, bad)
    assert got is None  # compared with itself it has no advantage
    assert refused == {"vision_token": 2, "group_dropped": 1}


def test_a_group_of_equal_rewards_is_dropped_if_the_configuration_says_so(
    make_workflow, problem
):
    """Of what is left of it; groups that differ are counted as kept."""
    workflow = make_workflow(groups={"all_equal": "drop"})
    assert run(workflow, problem, FINE, FINE)[:2] == (None, {"group_all_equal": 1})
    got, refused, _ = run(workflow, problem, FINE, [9, 1])
    assert got["rewards"].tolist() == [3.0, 2.0] and refused == {}
    bad = REFUSALS["vision_token"]
    got, refused, _ = run(workflow, problem, FINE, bad, FINE)
    assert (got, refused) == (None, {"vision_token": 1, "group_all_equal": 1})
    assert run(workflow, problem, bad, bad)[1]["group_dropped"] == 1
    kept, refused, _ = run(make_workflow(), problem, FINE, FINE)
    assert len(kept["rewards"]) == 2 and refused == {}
    assert asyncio.run(workflow.arun_episode(FakeEngine(FINE), problem)) is not None


def test_a_group_of_one_by_design_is_kept(make_workflow, problem):
    engine = FakeEngine(FINE)
    got = asyncio.run(make_workflow().arun_episode(engine, problem))
    assert got["input_ids"].shape[0] == 1 and totals() == {}
    got = asyncio.run(make_workflow().arun_episode(FakeEngine([IMAGE, 1]), problem))
    assert got is None and totals() == {"vision_token": 1}


@pytest.mark.parametrize("token", [2, 3, 4, 5])
def test_every_vision_token_is_refused(make_workflow, problem, token):
    got, refused, _ = run(make_workflow(), problem, [9, token, 1])
    assert got is None and refused == {"vision_token": 1}


def test_one_found_when_a_response_is_continued(make_workflow, problem):
    got, refused, _ = run(make_workflow(), problem, VisionTokenSampled(), FINE, FINE)
    assert got["input_ids"].shape[0] == 2 and refused == {"vision_token": 1}


def test_no_payload_in_the_log(make_workflow, problem, caplog):
    module.logger.addHandler(caplog.handler)  # AReaL's loggers stand alone
    errors = [REFUSALS["request_failed"], ValueError("<image>"), OSError("<image>")]
    run(make_workflow(), problem, *errors, [9, RAISE, 1])
    module.logger.removeHandler(caplog.handler)
    assert "RuntimeError (TimeoutError)" in caplog.text and "ValueError" in caplog.text
    assert "ZeroDivisionError in by_token" in caplog.text
    assert "<image>" not in caplog.text and "a payload" not in caplog.text


def test_a_mistake_of_ours_is_not_taken_for_a_refusal(make_workflow, problem):
    with pytest.raises(KeyError):
        run(make_workflow(), problem, KeyError("a bug"), FINE)


PROMPT_LENGTH = 13  # of the triangle problem: 9 of its image, 4 others


@pytest.mark.parametrize(
    "limits",
    [
        {"max_prompt_tokens": PROMPT_LENGTH},
        {"context_length": PROMPT_LENGTH + 8},
        {"gconfig": {"max_new_tokens": 8, "max_tokens": PROMPT_LENGTH + 8}},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_prompts_that_are_too_long_are_refused_before_any_request(
    make_workflow, problem, limits
):
    for spare, kept in ((0, True), (-1, False)):
        kwargs = dict(limits)
        if "gconfig" in kwargs:
            changed = kwargs["gconfig"] | {"max_tokens": PROMPT_LENGTH + 8 + spare}
            kwargs["gconfig"] = GenerationHyperparameters(**changed)
        else:
            kwargs = {name: value + spare for name, value in kwargs.items()}
        got, refused, engine = run(make_workflow(**kwargs), problem, FINE, FINE)
        if kept:
            assert len(engine.requests[0].input_ids) == PROMPT_LENGTH
            assert got is not None and refused == {}
        else:
            assert got is None and engine.requests == []
            assert refused == {"prompt_too_long": 2, "group_dropped": 1}


def test_a_problem_without_an_image(make_workflow, problem):
    text = {"images": [], "messages": "P?", "answer": "5", "query_id": "text"}
    got, refused, engine = run(make_workflow(), text, FINE, FINE)
    with_image, _, _ = run(make_workflow(), problem, FINE, FINE)
    assert refused == {} and engine.requests[0].image_data == []
    assert got["multi_modal_input"] == [{}, {}]
    assert got.keys() == with_image.keys()
    assert not got["mm_token_type_ids"].any()
    for key in set(got) - {"multi_modal_input"}:
        assert got[key].dtype == with_image[key].dtype


def test_two_images_in_one_problem(make_workflow, processor, problem):
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    two = problem | {"images": problem["images"] * 2, "messages": mark * 2 + "P?"}
    got, _, engine = run(make_workflow(), two, FINE, FINE)
    assert len(engine.requests[0].image_data) == 2
    assert got["multi_modal_input"][0]["image_grid_thw"].shape == (2, 3)
    assert got["mm_token_type_ids"][0].sum() == 18


def test_a_response_takes_along_the_parts_of_its_reward(make_workflow, problem):
    function = "tests.rollout.reward_cases:in_parts"
    reward = {"function": function, "weights": {"right": 0.5}, "timeout_seconds": 20.0}
    workflow = make_workflow(reward_fn=function, reward=reward)
    got, _, _ = run(workflow, problem, FINE, FINE)
    told = [images["reward_parts"] for images in got["multi_modal_input"]]
    assert told == [{"right": 1.0, "short": 0.0}] * 2
    assert got["rewards"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "kwargs",
    [{"reward": {"timeout_seconds": 0}}, {"groups": {"on_failed_response": 1}}],
)
def test_settings_are_checked(make_workflow, kwargs):
    with pytest.raises(ValueError, match="expected"):
        make_workflow(**kwargs)


def test_with_samples_responses_take_along_what_theirs_say(
    make_workflow, problem, tmp_path
):
    workflow = make_workflow(samples=str(tmp_path))
    got, _, _ = run(workflow, problem, FINE, [9, 1])
    about = [images["sample"] for images in got["multi_modal_input"]]
    known = {name: str(problem[name]) for name in ("query_id", "question", "answer")}
    assert about == [known | {"parts": {}}] * 2
    assert not list(tmp_path.iterdir())
    got, _, _ = run(make_workflow(), problem, FINE, FINE)
    assert not any("sample" in images for images in got["multi_modal_input"])


@pytest.mark.parametrize("reason", [*REFUSALS, "prompt_too_long"])
def test_a_few_refused_responses_are_written_down(
    make_workflow, processor, problem, tmp_path, reason
):
    """With as much as there is of them; no more than a few wait to be gathered."""
    limits = {"max_prompt_tokens": 5} if reason == "prompt_too_long" else {}
    settings = {"reward": {"timeout_seconds": 2.0}, "samples": str(tmp_path)}
    workflow = make_workflow(**settings, **limits)
    outcome = REFUSALS.get(reason, FINE)
    run(workflow, problem, FINE, outcome)
    (file,) = tmp_path.iterdir()
    record = torch.load(file, weights_only=True)
    assert record["reason"] == reason
    without = reason in ("request_failed", "prompt_too_long")
    assert record["ids"] == ([] if without else outcome)
    text = processor.tokenizer.decode(record["prompt"], skip_special_tokens=True)
    assert text and IMAGE not in record["prompt"]
    (picture,) = record["pictures"]["anchor"]
    assert tuple(picture.shape) == (84, 84, 3) and picture.dtype == torch.uint8
    assert (record["query_id"], record["images"]) == (problem["query_id"], 1)


def test_no_more_than_a_few_wait_and_none_of_an_evaluation(
    make_workflow, problem, tmp_path
):
    workflow = make_workflow(samples=str(tmp_path / "pending"))
    bad = REFUSALS["vision_token"]
    workflow_context.set(WorkflowContext(is_eval=True))
    try:
        asyncio.run(workflow.arun_group(FakeEngine(bad, bad), problem, 2))
    finally:
        workflow_context.set(WorkflowContext())
    assert not (tmp_path / "pending").exists()
    for _ in range(5):
        run(workflow, problem, FINE, bad, bad)
    assert len(list((tmp_path / "pending").iterdir())) == 3
    (tmp_path / "file").touch()  # a folder that can't be made does not end a run
    got, _, _ = run(make_workflow(samples=str(tmp_path / "file")), problem, FINE, bad)
    assert got is None
