"""Requests to a server: the token goes along, and no payload is ever logged."""

from __future__ import annotations

import time
from typing import Any

import requests
from areal.api.io_struct import HttpRequest

from areal_cppo.serving.guard import COMPARE_PATH, OPEN_PATH

# Reaches the scheduler process, also of a paused server; SGLang's own /health doesn't:
# it generates a token, which waits while paused, and answers 503 after 20 s.
HEARTBEAT = HttpRequest("/v1/loads?include=core", None, "GET")
HEALTH = HttpRequest("/health", None, "GET")
ABORT_ALL = HttpRequest("/abort_request", {"abort_all": True})
_ABORT_SECONDS, _POLL_SECONDS = 1.0, 0.02


class ServerError(Exception):
    """A server failed; the message says how, and holds nothing of the request.

    Attributes
    ----------
    gone : bool
        Nobody listens, or the connection broke.
    """

    def __init__(self, reason: str, gone: bool = False):
        super().__init__(reason)
        self.gone = gone


def authorization(token: str) -> dict[str, str]:
    """Headers that carry a token; none for an empty one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


class ServerClient:
    """Control requests to one server, blocking.

    Parameters
    ----------
    address
        `host:port`.
    token
        May be empty.
    """

    def __init__(self, address: str, token: str = ""):
        self.address = address
        self._headers = authorization(token)

    def send(self, request: HttpRequest, timeout: float) -> Any:
        """The answer, parsed if it is JSON.

        Raises
        ------
        ServerError
            No answer within `timeout` seconds, or a status other than 200.
        """
        what = request.endpoint.partition("?")[0]
        try:
            answer = requests.request(
                request.method,
                f"http://{self.address}{request.endpoint}",
                json=request.payload,
                headers=self._headers,
                timeout=timeout,
            )
        except requests.Timeout:
            raise ServerError(f"no answer to {what} in {timeout:.0f} s") from None
        except requests.RequestException as error:
            kind = type(error).__name__
            raise ServerError(f"{what} failed ({kind})", gone=True) from None
        if answer.status_code != 200:
            raise ServerError(f"{what} answered status {answer.status_code}")
        try:
            return answer.json()
        except ValueError:
            return None

    def pause(self, request: HttpRequest, timeout: float) -> None:
        """Stop generation; requests under way are answered with what there is.

        SGLang's own pause (`request`) aborts them, too, but then looks only once a
        second whether they are gone. Aborted before, they are gone when it looks for
        the first time. Where that can't be seen, it is left to the pause.
        """
        try:
            self.send(ABORT_ALL, timeout)
            began = time.monotonic()
            while (
                self._open_requests(timeout)
                and time.monotonic() - began < _ABORT_SECONDS
            ):
                time.sleep(_POLL_SECONDS)
        except ServerError:
            pass
        self.send(request, timeout)

    def _open_requests(self, timeout: float) -> int:
        """How many requests the server's schedulers have, running or waiting."""
        answer = self.send(HEARTBEAT, timeout)
        try:
            return sum(
                load["num_running_reqs"] + load["num_waiting_reqs"]
                for load in answer["loads"]
            )
        except (KeyError, TypeError):
            raise ServerError("/v1/loads answered nonsense") from None

    def open_for(self, version: int | None, timeout: float) -> None:
        """Let the server serve, with this version of the weights; None: not at all."""
        self.send(HttpRequest(OPEN_PATH, {"version": version}), timeout)

    def compare(
        self, path: str | None, adapter: str | None, timeout: float
    ) -> str | None:
        """What the server holds that differs from a folder, or without one from what
        came over the wire; None: nothing does."""
        request = HttpRequest(COMPARE_PATH, {"path": path, "adapter": adapter})
        answer = self.send(request, timeout)
        if not isinstance(answer, dict) or not isinstance(answer.get("equal"), bool):
            raise ServerError(f"{COMPARE_PATH} answered nonsense")
        return None if answer["equal"] else str(answer.get("message"))[:300]
