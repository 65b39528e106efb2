"""The dispatcher against AReaL's own staleness managers.

Covers the capacity at every moment of random histories, and when a controller's and its
workers' managers together stop for good. Not covered: AReaL's threads and requests.
"""

from __future__ import annotations

import pytest
import simpy
from areal.infra.staleness_manager import StalenessManager
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.plan.admission import Dispatcher, Group
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.stall import stall_step


class Version:
    """What AReaL's manager asks for the version."""

    value = 0

    def get_version(self) -> int:
        return self.value


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(1, 6),
    bound=st.integers(0, 4),
    concurrent=st.integers(1, 20),
    moves=st.lists(st.sampled_from(("wait", "finish", "train")), max_size=40),
)
def test_capacity_is_that_of_areals_manager(batch, bound, concurrent, moves):
    version, env = Version(), simpy.Environment()
    manager = StalenessManager(version, concurrent, batch, bound)
    under_way: list[int] = []

    def start(number: int) -> None:
        assert manager.get_capacity() > 0
        manager.on_rollout_submitted()
        under_way.append(number)

    setting = Setting(1, 1, batch, 1, bound)
    dispatcher = Dispatcher(env, setting, concurrent, start)
    for move in moves:
        if move == "finish" and under_way:
            manager.on_rollout_accepted()
            dispatcher.finish(Group(under_way.pop(), 1, 1))
        elif move == "train" and len(dispatcher.results) >= batch:
            taken = env.run(env.process(dispatcher.wait_batch()))
            assert len(taken) == batch
            dispatcher.pause()
            version.value += 1
            dispatcher.resume(version.value)
        else:
            dispatcher._refill()
        assert dispatcher.capacity() == manager.get_capacity()
        assert dispatcher.under_way == manager.get_stats().running


def _first_batch_that_never_comes(batch: int, servers: int, bound: int, steps: int):
    """With AReaL's managers, set up as its controller and its workers do."""
    version = Version()
    controller = StalenessManager(version, 10**6, batch, bound)
    share = max(1, batch // servers)
    workers = [StalenessManager(version, 10**6, share, bound) for _ in range(servers)]
    waiting, given_out, ready = [0] * servers, 0, 0
    for step in range(1, steps + 1):
        while ready < batch:
            before = ready
            while controller.get_capacity() > 0:
                controller.on_rollout_submitted()
                waiting[given_out % servers] += 1
                given_out += 1
            for i, worker in enumerate(workers):
                while waiting[i] and worker.get_capacity() > 0:
                    waiting[i] -= 1
                    worker.on_rollout_submitted()
                    worker.on_rollout_accepted()
                    controller.on_rollout_accepted()
                    ready += 1
            if ready == before:
                return step
        ready -= batch
        version.value += 1
    return None


@pytest.mark.parametrize("bound", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("batch", "servers"),
    [(8, 1), (8, 2), (8, 3), (8, 5), (8, 12), (64, 9), (64, 16), (64, 40)],
)
def test_when_workers_that_bound_their_share_stop_for_good(batch, servers, bound):
    found = _first_batch_that_never_comes(batch, servers, bound, steps=300)
    assert stall_step(batch, servers, bound) == found
