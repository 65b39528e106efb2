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
from areal.api.cli_args import GenerationHyperparameters

from areal_cppo.rewards.parts import Reward
from areal_cppo.rollout import workflow as module
from areal_cppo.rollout.refusals import VisionTokenSampled
from areal_cppo.rollout.workflow import CPPOWorkflow
from tests.rollout.fakes import (
    FINE,
    IMAGE,
    REFUSALS,
    CountingProcessor,
    FakeEngine,
    run,
    totals,
)
from tests.rollout.reward_cases import RAISE


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
