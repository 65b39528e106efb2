"""What the workflow adds to samples, and the refused responses that it writes down."""

from __future__ import annotations

import asyncio

import pytest
import torch
from areal import workflow_context
from areal.infra.workflow_context import WorkflowContext

from tests.rollout.fakes import FINE, IMAGE, REFUSALS, FakeEngine, run


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
