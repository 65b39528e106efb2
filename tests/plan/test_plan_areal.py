"""The dispatcher against AReaL's own staleness managers.

Covers the capacity at every moment of random histories. Not covered: AReaL's threads
and requests.
"""

from __future__ import annotations

import simpy
from areal.infra.staleness_manager import StalenessManager
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.plan.admission import Dispatcher, Group
from areal_cppo.plan.setting import Setting


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
