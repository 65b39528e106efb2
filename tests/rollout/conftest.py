"""Servers of a worker that fail on request."""

from __future__ import annotations

import pytest

from tests.rollout.owned_server import Server


@pytest.fixture
def make(tmp_path):
    servers = []

    def start(**settings) -> Server:
        server = Server(tmp_path / f"server{len(servers)}", **settings)
        servers.append(server)
        server.start()
        server.until("up")
        return server

    yield start
    for server in servers:
        server.close()
