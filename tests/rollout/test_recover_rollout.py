"""The rollout controller with its ledger: real dispatcher, workers that do as told."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections import Counter
from types import SimpleNamespace

import pytest
from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine
from areal.infra.controller.rollout_controller import (
    BatchTaskDispatcher,
    StalenessManager,
)
from areal.utils import logging

from areal_cppo.errors import RunError
from areal_cppo.rollout.ledger import PromptLedger, PromptLoader
from areal_cppo.rollout.ledger_controller import GaveUp, LedgerRolloutController

BATCH = 4


class Workers:
    """A scheduler whose workers answer a task by `outcome(data, attempt)`.

    A dict is a trajectory, None a rejection, an exception a failed call, "never" no
    answer at all.
    """

    def __init__(self, outcome):
        self.outcome = outcome
        self.results = {}
        self.attempts = Counter()

    async def async_call_engine(self, worker_id, method, engine_name, **call):
        if method == "wait_for_task":
            return self.results.pop(call["task_id"])
        assert method == "submit"
        data = call["data"]
        self.attempts[data] += 1
        result = self.outcome(data, self.attempts[data])
        if isinstance(result, Exception):
            raise result
        if result != "never":
            self.results[call["task_id"]] = result
            seconds = 0.01 * (data * 7 % 5)  # they don't finish in their order
            timer = threading.Timer(seconds, self.call_back, [call])
            timer.daemon = True
            timer.start()

    def call_back(self, call):
        body = f'{{"task_id": {call["task_id"]}}}'.encode()
        request = urllib.request.Request(
            call["callback_addr"],
            body,
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def make():
    made = []

    def build(outcome, size=12, attempts=2, staleness=0, seconds=5.0):
        config = InferenceEngineConfig(
            backend="sglang:d1p1t1",
            experiment_name="e",
            trial_name="t",
            max_concurrent_rollouts=BATCH,
            consumer_batch_size=BATCH,
            max_head_offpolicyness=staleness,
            request_timeout=seconds,
        )
        controller = LedgerRolloutController(
            RemoteSGLangEngine, config, Workers(outcome)
        )
        controller._worker_role = "rollout"
        controller.workers = [SimpleNamespace(id="rollout/0")]
        controller._staleness_manager = StalenessManager(
            controller, BATCH, BATCH, staleness
        )
        controller._dispatcher = BatchTaskDispatcher(
            max_queue_size=64,
            task_factory=controller._create_submit_callback,
            staleness_manager=controller._staleness_manager,
        )
        controller._dispatcher.initialize(logging.getLogger("test"))
        controller._start_callback_server()
        ledger = PromptLedger(size, seed=1, shuffle=False, attempts=attempts)
        made.append(controller)
        return controller, PromptLoader(list(range(size)), BATCH, ledger)

    yield build
    for controller in made:
        controller._dispatcher.destroy()
        controller._stop_callback_server()


def trajectory(data, attempt):
    return {"problem": data}


def batch(controller, loader):
    """What a step is made with; then the policy has a new version."""
    items = controller.prepare_batch(loader, "a.workflow.Class")
    loader.ledger.trained(controller.places)
    controller._version += 1
    controller.dispatcher.resume()  # as after each weight update
    return [item["problem"] for item in items]


def test_a_batch_is_in_the_ledgers_order(make):
    controller, loader = make(trajectory)
    assert [batch(controller, loader) for _ in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert controller.places == [8, 9, 10, 11]
    assert batch(controller, loader) == [0, 1, 2, 3]  # of the next epoch


@pytest.mark.parametrize("wrong", [None, RuntimeError("500")])
def test_a_group_that_fails_is_tried_again(make, wrong):
    """Rejected or failed: in the same step, and trained on once."""

    def outcome(data, attempt):
        return wrong if data in (1, 2) and attempt == 1 else trajectory(data, attempt)

    controller, loader = make(outcome)
    assert batch(controller, loader) == [0, 1, 2, 3]
    assert batch(controller, loader) == [4, 5, 6, 7]
    attempts = controller.scheduler.attempts
    assert attempts[1] == attempts[2] == 2 and attempts[0] == 1
    assert loader.ledger.given_up == 0


def test_a_group_that_never_comes_is_tried_again_later(make):
    """The step does not wait for it."""

    def outcome(data, attempt):
        return "never" if data == 1 and attempt == 1 else trajectory(data, attempt)

    controller, loader = make(outcome, seconds=1.0)
    trained = [p for _ in range(3) for p in batch(controller, loader)]
    assert sorted(trained) == list(range(12))
    assert controller.scheduler.attempts[1] == 2


def test_one_that_always_fails_is_given_up_and_the_next_takes_its_place(make):
    controller, loader = make(lambda d, n: None if d == 1 else trajectory(d, n))
    assert batch(controller, loader) == [0, 2, 3, 4]
    assert batch(controller, loader) == [5, 6, 7, 8]
    assert controller.scheduler.attempts[1] == 2
    assert loader.ledger.given_up == 1


def test_a_workflow_that_can_only_fail_ends_the_run(make):
    """As one whose constructor raises: AReaL would try for ever."""
    controller, loader = make(
        lambda d, n: TypeError("__init__() got an unexpected keyword argument 'x'")
    )
    controller.most_failed_groups = 6
    with pytest.raises(GaveUp, match="unexpected keyword argument") as error:
        controller.prepare_batch(loader, "a.workflow.Class")
    assert "6 in a row" in str(error.value) and "\n" not in str(error.value)


def test_one_success_in_between_and_it_goes_on(make):
    """Seven of eight fail; the limit is on failures in a row."""
    controller, loader = make(
        lambda d, n: trajectory(d, n) if d % 8 == 0 else None, size=64, attempts=1
    )
    controller.most_failed_groups = 12
    assert batch(controller, loader) == [0, 8, 16, 24]
    assert loader.ledger.given_up >= 21


def test_whoever_waits_is_told_why_the_run_ends(make):
    controller, loader = make(lambda d, n: "never", seconds=60.0)
    error = RunError("all servers are lost")
    threading.Timer(0.5, controller.end_run, [error]).start()
    with pytest.raises(RunError) as raised:
        controller.prepare_batch(loader, "a.workflow.Class")
    assert raised.value is error


def test_what_was_under_way_when_a_run_was_cut_off_is_handed_out_again(make):
    controller, loader = make(trajectory, staleness=2)
    first = batch(controller, loader)
    saved = loader.state_dict()  # more than a batch is under way or finished now
    again, loader = make(trajectory, staleness=2)
    loader.load_state_dict(saved)
    trained = first + batch(again, loader) + batch(again, loader)
    assert trained == list(range(12))


def test_nothing_of_a_request_is_in_the_reason():
    from areal_cppo.rollout.ledger_controller import _summary

    text = _summary(RuntimeError("status 500\n" + "iVBORw0KGgo" * 100))
    assert "\n" not in text and len(text) < 250
    asyncio.run(asyncio.sleep(0))
