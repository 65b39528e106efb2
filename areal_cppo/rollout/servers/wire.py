"""Weights that come to a server over a group of processes (NCCL, gloo), in parts.

The trainer's first rank sends, every server receives. From the first part on a server
holds a mixture of two versions: its gate is closed then, and opened for the new version
once all parts have come, as the server itself says (`areal_cppo.serving.held_weights`).
A process that is started later can't join the group.
"""

from __future__ import annotations

from collections.abc import Iterable

from areal.api.io_struct import HttpRequest

from areal_cppo.rollout.servers.http import ServerError
from areal_cppo.rollout.servers.live import LiveServer
from areal_cppo.rollout.servers.weights import Weights


class WireUpdates:
    """The weight updates of one server; a method at a time.

    Parameters
    ----------
    live
        The server.
    seconds
        Longest time of a request: setting up the group, receiving a part.
    verify
        Whether the server is asked if all has come; else the word of the sender counts.

    Attributes
    ----------
    joined : bool
        The server belongs to the group, or has tried to.
    """

    def __init__(self, live: LiveServer, seconds: float, verify: bool):
        self.joined = False
        self._live = live
        self._seconds = seconds
        self._verify = verify
        self._coming: int | None = None  # the version of which parts have come

    def join(self, request: HttpRequest) -> None:
        """Have the server join the group; waits for all the others.

        Raises
        ------
        ServerError
            It failed, or took too long.
        """
        self.joined = True
        self._send(request)

    def receive(self, version: int, requests: Iterable[HttpRequest]) -> None:
        """Have the server receive a part of a version.

        Raises
        ------
        ServerError
            It failed, took too long, or the version before is not complete.
        """
        if self._coming is None:
            self._live.open_for(None)
            self._coming = version
        elif self._coming != version:
            raise ServerError(
                f"version {version} began before version {self._coming} was complete"
            )
        for request in requests:
            self._send(request)

    def complete(self) -> Weights | None:
        """Open the server for the version of which all parts have come, if one has.

        Raises
        ------
        ServerError
            Something is missing, or not as it was sent.
        """
        if self._coming is None:
            return None
        weights = Weights(self._coming, path=None)
        if self._verify:
            self._live.verify(weights)
        self._live.open_for(weights)
        self._coming = None
        return weights

    def _send(self, request: HttpRequest) -> None:
        answer = self._live.client.send(request, self._seconds)
        if isinstance(answer, dict) and answer.get("success") is False:
            raise ServerError(f"{request.endpoint} answered that it failed")
