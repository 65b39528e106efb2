"""Weights that come to a server over the wire, in parts: whole, or it stays shut.

The server is `FailingServer`; with SGLang: tests/test_recipe.py.
"""

from __future__ import annotations

import pytest
from areal.api.io_struct import HttpRequest

from areal_cppo.rollout.servers.client import ServerError
from tests.rollout.owned_server import refused
from tests.scripted_server import script

JOIN = HttpRequest("/init_weights_update_group", {})


def part(number: int) -> list[HttpRequest]:
    """Half of version `number` of the weights, which are 100 + number."""
    payload = {"names": ["weights", 100 + number]}
    return [HttpRequest("/update_weights_from_distributed", payload)]


def test_weights_over_the_wire(make):
    """Closed from the first part of a version until all have come."""
    server = make()
    server.join(JOIN)
    assert server.ask() == 0 and not server.can_rejoin
    for number in (1, 2):
        server.pause()
        for _ in range(2):
            server.receive(number, part(number))
            assert refused(server)
        server.resume()
        assert (server.state, server.served, server.ask()) == (
            "up",
            number,
            100 + number,
        )
    assert server.status()["version"] == 2 and server.restarts == 0
    server.resume()  # without an update
    assert server.ask() == 102


def test_waiting_for_the_others_is_not_silence(make):
    """A group is set up, and a part received, once all take part in it."""
    server = make(hang_seconds=0.5)
    script(server.address, mode="slow_update", seconds=0.8)
    server.join(JOIN)
    for _ in range(2):
        server.receive(1, part(1))
    server.resume()
    assert (server.state, server.ask(), server.restarts) == ("up", 101, 0)


@pytest.mark.parametrize(
    ("mode", "parts", "why"),
    [
        ("refuse_update", 1, "answered that it failed"),
        ("die_on_update", 1, "update_weights_from_distributed failed"),
        ("lose_update", 2, "does not hold version 1 of the weights: 1 has not come"),
        ("well", 1, "does not hold version 1 of the weights: 1 has not come"),
    ],
)
def test_a_wrong_or_cut_off_update_over_the_wire_leaves_it_shut(make, mode, parts, why):
    """And lost: it would have to join the group again."""
    server = make()
    server.join(JOIN)
    script(server.address, mode=mode)
    with pytest.raises(ServerError, match=why):
        for _ in range(parts):
            server.receive(1, part(1))
        assert refused(server)
        server.resume()
    assert server.served == 0
    server.until("down", "lost")
    assert "xccl" in server.reason and why in server.reason and len(server.pids) == 1
    with pytest.raises(ServerError, match="it is lost"):
        server.receive(2, part(2))


def test_a_version_that_begins_before_the_last_is_whole(make):
    server = make()
    server.join(JOIN)
    server.receive(1, part(1))
    with pytest.raises(ServerError, match="2 began before version 1 was complete"):
        server.receive(2, part(2))
    server.until("lost")


def test_setting_up_the_group_for_too_long_is_a_failure(make):
    server = make(update_seconds=1.0)
    script(server.address, mode="slow_update", seconds=500.0)
    with pytest.raises(ServerError, match="no answer to /init_weights_update_group"):
        server.join(JOIN)
    server.until("lost")
