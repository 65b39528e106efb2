"""The controller's watch: events, states told to workers, and when a run ends.

Workers are functions here; with real ones: test_servers_sglang.py, the chaos suite.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from areal.api import WeightUpdateMeta
from areal.infra.controller import RolloutController
from areal.infra.scheduler.exceptions import EngineCallError
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.config.engines import CPPORolloutConfig
from areal_cppo.config.experiment import load_config
from areal_cppo.config.operation import ServersConfig
from areal_cppo.errors import RunError
from areal_cppo.rollout import controller as module
from areal_cppo.rollout.controller import CPPORolloutController
from areal_cppo.rollout.servers.fleet import FleetWatch

SERVERS = ["host:1", "host:2", "host:3"]


class RPCConnectionError(Exception):
    """By the name that AReaL's schedulers have for it."""


class Fleet:
    """Three workers, a watch, and what it did."""

    def __init__(self, **settings):
        self.replies = {
            rank: {
                "server": server,
                "state": "up",
                "reason": "",
                "restarts": 0,
                "version": 4,
                "can_rejoin": True,
                "events": [],
            }
            for rank, server in enumerate(SERVERS)
        }
        self.told = {}
        self.events = []
        self.ended = []

        async def ask(rank, states):
            self.told[rank] = states
            reply = self.replies[rank]
            if isinstance(reply, Exception):
                raise reply
            events, reply["events"] = reply["events"], []
            return {**reply, "events": events}

        self.watch = FleetWatch(
            ask,
            SERVERS,
            ServersConfig(**settings),
            self.ended.append,
            "rollout.log",
            [self.events.append],
        )

    def look(self) -> None:
        asyncio.run(self.watch.look())


def test_events_reach_the_listeners_once_and_states_the_workers():
    fleet = Fleet()
    event = {"event": "server_down", "server": "host:2", "reason": "killed"}
    fleet.replies[1] |= {"state": "down", "events": [event]}
    fleet.look()
    fleet.look()
    assert fleet.events == [event]
    expected = {"host:1": "up", "host:2": "down", "host:3": "up"}
    assert fleet.told == {0: expected, 1: expected, 2: expected}
    assert fleet.ended == []


def test_a_listener_that_comes_later_hears_what_was_before():
    """A run's is there once its checkpoint is read, which may take longer."""
    fleet = Fleet()
    late = fleet.watch._listeners.pop()
    fleet.replies[0]["events"] = [{"event": "server_up"}]
    fleet.look()
    assert fleet.events == []
    fleet.watch._listeners.append(late)
    fleet.look()
    fleet.look()
    assert fleet.events == [{"event": "server_up"}]


def test_a_listener_that_fails_harms_nobody():
    fleet = Fleet()

    def fails(event):
        raise OSError("disk full")

    fleet.watch._listeners.insert(0, fails)
    fleet.replies[0]["events"] = [{"event": "server_up"}]
    fleet.look()
    assert fleet.events == [{"event": "server_up"}]


@given(
    lost=st.lists(st.booleans(), min_size=3, max_size=3),
    fewest=st.integers(1, 5),
    rejoin=st.booleans(),
)
def test_the_run_ends_when_fewer_are_left(lost, fewest, rejoin):
    fleet = Fleet(fewest=fewest)
    for rank, is_lost in enumerate(lost):
        if is_lost:
            fleet.replies[rank] |= {"state": "lost", "can_rejoin": rejoin}
    fleet.look()
    left = lost.count(False)
    ends = left < min(fewest, 3) or (any(lost) and not rejoin)
    assert bool(fleet.ended) == ends


def test_the_line_says_which_server_how_often_and_where():
    fleet = Fleet(fewest=3)
    fleet.replies[1] |= {
        "state": "lost",
        "restarts": 2,
        "reason": "its\nport is closed",
    }
    fleet.look()
    (error,) = fleet.ended
    assert isinstance(error, RunError) and fleet.watch.failure is error
    assert str(error) == (
        "expected at least 3 generation servers, found 2 left: host:2 was started "
        "again 2 times (its port is closed); see rollout.log; limit: "
        "rollout.servers.restarts"
    )


def test_a_worker_that_is_gone_ends_the_run():
    fleet = Fleet()
    fleet.replies[2] = RPCConnectionError()
    fleet.look()
    fleet.look()
    assert fleet.ended == []
    fleet.look()
    (error,) = fleet.ended
    assert "rollout worker 2" in str(error) and "checkpoint" in str(error)


def test_a_busy_worker_is_not_gone():
    """While it loads weights it does not answer; for too long, it is."""
    fleet = Fleet()
    fleet.replies[2] = TimeoutError()
    for _ in range(10):
        fleet.look()
    assert fleet.ended == []
    fleet.watch._heard[2] -= 1e4
    fleet.look()
    assert "was silent" in str(fleet.ended[0])


@pytest.fixture
def controller(monkeypatch):
    calls = []

    async def rpc(self, method, *args, **kwargs):
        calls.append((method, kwargs))
        return [None, made.still_read]

    def initialize(self, role, server_args=None, server_infos=None, **kwargs):
        calls.append((role, server_args, kwargs))
        self.server_infos = server_infos or [SimpleNamespace(host="host", port=1)]

    monkeypatch.setattr(RolloutController, "_collective_rpc_async", rpc)
    monkeypatch.setattr(RolloutController, "initialize", initialize)
    monkeypatch.setattr(RolloutController, "destroy", lambda self: None)
    made = CPPORolloutController(
        object, CPPORolloutConfig(backend="sglang:d1"), SimpleNamespace(log_dir="logs")
    )
    made.calls, made.still_read = calls, None
    yield made
    made.destroy()


@pytest.fixture
def update(controller, tmp_path):
    """Makes the folder of a version and has it loaded; returns the folders there are"""

    def make(number: int) -> set[str]:
        path = tmp_path / f"weight_update_v{number}"
        path.mkdir()
        meta = WeightUpdateMeta(type="disk", path=str(path), version=number)
        asyncio.run(controller.update_weights_from_disk(meta))
        assert not meta.clear_checkpoint_after_load
        return {path.name for path in tmp_path.iterdir()}

    return make


def test_weights_stay_until_the_next_update_is_done(controller, update, tmp_path):
    (tmp_path / "weight_update_v0").mkdir()  # of a run that was killed
    (tmp_path / "epoch1").mkdir()
    for number in (1, 2, 3):
        assert update(number) == {f"weight_update_v{number}", "epoch1"}
    controller.destroy()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch1"]


def test_weights_that_a_starting_server_reads_stay(controller, update, tmp_path):
    update(1)
    controller.still_read = str(tmp_path / "weight_update_v1")
    assert update(2) == {"weight_update_v1", "weight_update_v2"}
    assert update(3) == {"weight_update_v1", "weight_update_v3"}
    controller.still_read = None
    assert update(4) == {"weight_update_v4"}
    controller.still_read = str(tmp_path / "weight_update_v4")
    update(5)
    controller.destroy()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_update_deletes_nothing(controller, tmp_path, monkeypatch):
    async def fails(self, method, *args, **kwargs):
        raise RPCConnectionError

    one = tmp_path / "weight_update_v1"
    one.mkdir()
    monkeypatch.setattr(RolloutController, "_collective_rpc_async", fails)
    monkeypatch.setattr(CPPORolloutController, "end_run", lambda self, error: None)
    meta = WeightUpdateMeta(type="disk", path=str(tmp_path / "weight_update_v2"))
    with pytest.raises(RPCConnectionError):
        asyncio.run(controller.update_weights_from_disk(meta))
    assert one.exists()
    assert "could not be reached" in str(controller.failure)


@pytest.fixture
def ended_now(controller, monkeypatch):
    """Errors with which the run was ended whatever it waited for."""
    monkeypatch.setattr(module, "_NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(CPPORolloutController, "end_run", lambda self, error: None)
    ended = []
    controller.end_now = ended.append
    return ended


def receive(controller) -> None:
    meta = WeightUpdateMeta(type="xccl", version=1)
    asyncio.run(controller.update_weights_from_distributed(meta, []))


def test_a_server_that_fails_in_an_update_over_the_wire_ends_the_run(
    controller, ended_now, monkeypatch
):
    """Even if the trainer waits for that server, and this process for the trainer."""

    async def fails(self, method, *args, **kwargs):
        engine = f"Engine method '{method}' failed: the generation server is gone"
        raise EngineCallError("rollout/0", method, engine)

    monkeypatch.setattr(RolloutController, "_collective_rpc_async", fails)
    with pytest.raises(EngineCallError):
        receive(controller)
    assert str(controller.failure) == "the generation server is gone"
    time.sleep(0.3)
    assert ended_now == [controller.failure]


def test_a_server_lost_during_an_update_over_the_wire_ends_the_run(
    controller, ended_now
):
    receive(controller)
    assert controller.calls[-1][0] == "update_weights_from_distributed"
    controller._fail(RunError("lost"))  # by the watch
    time.sleep(0.3)
    assert ended_now == [controller.failure]


def test_a_server_lost_just_before_an_update_over_the_wire_ends_the_run(
    controller, ended_now
):
    controller._fail(RunError("lost"))
    time.sleep(0.3)
    assert ended_now == []  # nobody waits for that server yet
    receive(controller)
    time.sleep(0.3)
    assert ended_now == [controller.failure]


def test_the_servers_word_is_waited_for(controller, ended_now, monkeypatch):
    """The trainer may notice first, and only that a connection broke."""
    assert controller.cause() is None  # nothing is under way
    receive(controller)
    lost = RunError("lost")
    threading.Timer(0.3, controller._fail, [lost]).start()
    assert controller.cause() is lost
    controller.failure = None
    monkeypatch.setattr(module, "_WORD_SECONDS", 0.2)
    assert controller.cause() is None


def test_a_server_lost_between_two_updates_leaves_time_for_a_checkpoint(
    controller, ended_now
):
    receive(controller)
    asyncio.run(controller.continue_generation())
    controller._fail(RunError("lost"))
    time.sleep(0.3)
    assert controller.failure is not None and ended_now == []


def test_a_token_of_its_own_for_each_run(controller):
    args = {"model_path": "model", "port": 1}
    controller.initialize("rollout", args)
    role, given_args, kwargs = controller.calls[0]
    assert len(controller.token) > 30
    assert given_args == {**args, "token": controller.token}
    assert kwargs == {"token": controller.token, "model": "model"}
    assert "token" not in args  # which AReaL's caller may log

    theirs = [SimpleNamespace(host="host", port=number) for number in (1, 2)]
    controller.initialize("eval-rollout", args, theirs, token="theirs")
    assert controller.token == "theirs"
    assert controller.calls[-1][2]["servers"] == ["host:1", "host:2"]


def test_no_token_where_none_is_wanted(controller):
    controller.config.servers.token = False
    controller.initialize("rollout", {})
    assert controller.token == ""


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("restarts=-1", "rollout.servers.restarts: expected an integer >= 0"),
        ("hang_seconds=0", "rollout.servers.hang_seconds: expected a number in (0,"),
        ("fewest=0", "rollout.servers.fewest: expected an integer >= 1"),
        ("restart=1", "expected a key of ServersConfig, found 'restart'"),
    ],
)
def test_bad_settings(setting, expected):
    config = Path(__file__).parents[2] / "configs" / "triangles.yaml"
    with pytest.raises(Exception) as error:
        load_config(config, [f"rollout.servers.{setting}"])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_reach_the_config():
    config = Path(__file__).parents[2] / "configs" / "triangles.yaml"
    loaded = load_config(config, ["rollout.servers.restarts=7"])
    assert loaded.rollout.servers.restarts == 7
