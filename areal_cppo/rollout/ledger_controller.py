"""AReaL's rollout controller, with a ledger of its problems and an end to failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from areal.infra.controller import rollout_controller
from areal.infra.controller.rollout_controller import RolloutController
from areal.utils import logging
from typing_extensions import override

from areal_cppo.errors import RunError
from areal_cppo.rollout.ledger import PromptLoader

logger = logging.getLogger("LedgerRollout")

_Task = rollout_controller._RemoteRolloutTaskInput
_Result = rollout_controller._RemoteRolloutResult


class GaveUp(RunError):
    """A run that would fail in the same way if it were started again."""


class LedgerRolloutController(RolloutController):
    """Each problem is trained on once an epoch; AReaL's would lose those that fail.

    A group that comes to nothing goes back to the ledger, which hands it out again or
    gives it up. A batch is in the ledger's order, whatever the order in which its
    groups arrived.

    Attributes
    ----------
    failed_groups
        Groups in a row of which none was accepted; at `most_failed_groups` the run
        ends.
    places
        Of the batch that `prepare_batch` returned last, in its order.
    """

    most_failed_groups = 64

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.failed_groups = 0
        self.places: list[int] = []
        self._place_of: dict[int, int] = {}  # of the tasks under way
        self._loader: PromptLoader | None = None
        self._tasks: Iterator[_Task] | None = None

    def end_run(self, error: Exception) -> None:
        """Let whoever waits for a batch fail with `error`; from any thread."""
        dispatcher = self.dispatcher
        dispatcher._set_thread_exception(error)
        for condition in (dispatcher._result_cv, dispatcher._input_cv):
            with condition:
                condition.notify_all()

    @override
    def prepare_batch(
        self,
        dataloader: PromptLoader,
        workflow,
        workflow_kwargs: dict[str, Any] | None = None,
        should_accept_fn: str | None = None,
        group_size: int = 1,
        dynamic_bs: bool = False,
        **of_groups: bool,
    ) -> list[dict[str, Any]]:
        """A batch of AReaL's trajectories, one per problem, in the ledger's order.

        `of_groups` is what 2.0 says of a task besides.
        """
        if self._tasks is None:
            self._loader = dataloader
            self._tasks = self._generate_tasks(
                workflow=self._resolve_workflow_str(workflow),
                workflow_kwargs=workflow_kwargs or {},
                should_accept_fn=should_accept_fn,
                group_size=group_size,
                **of_groups,
            )
        try:
            results = self.dispatcher.active_submit_and_wait(
                self._tasks, batch_size=dataloader.batch_size, dynamic_bs=dynamic_bs
            )
        except RuntimeError as error:  # AReaL wraps what a thread failed with
            if isinstance(error.__cause__, RunError):
                raise error.__cause__ from None
            raise
        placed = sorted(
            (
                (self._place_of.pop(result.task_id), result)
                for result in results
                if result is not None
            ),
            key=lambda pair: pair[0],
        )
        self.places = [place for place, _ in placed]
        return [result.trajectory for _, result in placed]

    def _generate_tasks(self, **settings) -> Iterator[_Task]:
        while True:
            place, data = self._loader.take()
            task_id = self._task_id_generator.next()
            self._place_of[task_id] = place
            yield _Task(data=data, task_id=task_id, **settings)

    @override
    def _create_submit_callback(self, pending_task: _Task):
        """What AReaL's dispatcher runs for a task: a group, or None and why."""

        async def run() -> _Result | None:
            task_id = pending_task.task_id
            try:
                trajectory = await self._roll_out(pending_task)
                reason = "none of its responses could be used"
            except TimeoutError:
                trajectory = None
                reason = f"no answer within {self.config.request_timeout:g} s"
            except Exception as error:
                trajectory, reason = None, _summary(error)
            finally:
                with self._futures_lock:
                    self._pending_futures.pop(task_id, None)
            if trajectory is not None:
                self.failed_groups = 0
                self.staleness_manager.on_rollout_accepted()
                return _Result(task_id=task_id, trajectory=trajectory)
            self.staleness_manager.on_rollout_rejected()
            self._failed(task_id, reason)
            return None

        return run

    async def _roll_out(self, task: _Task) -> dict[str, Any] | None:
        """Have a worker run the task; AReaL's trajectory dict, or None."""
        worker, rank = self._choose_worker()
        done = asyncio.get_running_loop().create_future()
        with self._futures_lock:
            self._pending_futures[task.task_id] = done
        settings = dict(vars(task))
        if self._proxy_started and task.proxy_addr is None:
            settings["proxy_addr"] = self.get_proxy_addr(rank)
        seconds = self.config.request_timeout
        engine = self._engine_name(rank)
        await self.scheduler.async_call_engine(
            worker.id,
            "submit",
            engine_name=engine,
            http_timeout=seconds,
            callback_addr=f"http://{self.callback_addr}/callback/rollout_complete",
            **settings,
        )
        await asyncio.wait_for(done, timeout=seconds)
        return await self.scheduler.async_call_engine(
            worker.id,
            "wait_for_task",
            engine_name=engine,
            task_id=task.task_id,
            timeout=1.0,  # it is done
            raise_timeout=False,
            http_timeout=seconds,
        )

    def _failed(self, task_id: int, reason: str) -> None:
        self.failed_groups += 1
        place = self._place_of.pop(task_id, None)
        if place is not None:  # not of the ledger: an evaluation's
            again = self._loader.ledger.give_back(place)
            logger.warning(
                "a group came to nothing (%s); its problem %s",
                reason,
                "will be tried again" if again else "is given up",
            )
        if self.failed_groups >= self.most_failed_groups:
            self.end_run(
                GaveUp(
                    f"expected groups to train on, found {self.failed_groups} in a row "
                    f"of which none could be used; the last: {reason}; look at the "
                    "metric refused and at logs/ (limit: watchdog.failed_groups)"
                )
            )


def _summary(error: Exception) -> str:
    """A line without what the request held: AReaL's errors may quote it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
