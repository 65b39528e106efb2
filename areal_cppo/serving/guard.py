"""What a server of a training run has that SGLang lacks: a secret, a gate, a check.

Secret: the token that requests must carry is not shown where SGLang prints its
arguments.

Gate: a server that was just started, or started again, may listen with weights that
are not the run's current ones, and one that gets weights over the wire holds a mixture
meanwhile. So it is born closed, answers 503 to requests for tokens, and is opened for
one version of the weights, by whoever had it load them. A request says in
`X-Weights-Version` which version it was made for; it gets 503 from a server of an older
one. Whoever sends it: no worker has to know the state of a server that it doesn't
watch.

Before it answers /health SGLang sends itself a request for tokens, its warm-up, and
ends if that is refused. The warm-up carries a pass that only this process knows and
that is void once the gate was opened.

Check: `POST /cppo/compare_weights` says whether the weights that came over the wire
have come as a whole, and are held as they were sent (`held_weights.py`).

This module is imported by SGLang's processes: it must not import torch or areal itself.
"""

import secrets
import threading
from types import ModuleType
from typing import Any

from pydantic import BaseModel

VERSION_HEADER = "X-Weights-Version"
WARM_UP_HEADER = "X-Warm-Up"
OPEN_PATH = "/cppo/open"
COMPARE_PATH = "/cppo/compare_weights"

# What makes tokens. The rest (health, weights, pause) is open from the start.
_GUARDED = ("/generate", "/v1/completions", "/v1/chat/completions")


class Secret(str):
    """A string that `repr` does not show; dataclasses print their fields with it."""

    def __repr__(self) -> str:
        return "'***'"


class Gate:
    """ASGI middleware: which version of the weights a server is open for.

    Attributes
    ----------
    version : int or None
        None: closed.
    """

    def __init__(self) -> None:
        self.version: int | None = None
        self._pass: str | None = secrets.token_urlsafe(32)

    def open_for(self, version: int | None) -> None:
        """Let requests for this version, or older, through; None: close the gate."""
        self.version = version
        if version is not None:
            self._pass = None

    def warm_up_client(self, requests: ModuleType) -> Any:
        """`requests` for SGLang's warm-up: its `post` carries the pass."""
        return _WarmUpClient(requests, self._pass)

    def refusal(
        self, path: str, asked: str | None, warm_up: str | None = None
    ) -> str | None:
        """Why a request is refused; None: it is let through.

        Parameters
        ----------
        path
            Of the request.
        asked
            Its `X-Weights-Version`; None: any version will do.
        warm_up
            Its `X-Warm-Up`.
        """
        if path not in _GUARDED:
            return None
        if self.version is None:
            if self._pass and warm_up and _same(warm_up, self._pass):
                return None
            return "closed: it may not hold the weights of the run"
        if asked is not None and not _number_up_to(asked, self.version):
            return f"it has version {self.version} of the weights, not {asked[:20]}"
        return None

    def around(self, app):
        """The ASGI application with this gate in front of it."""

        async def guarded(scope, receive, send):
            if scope["type"] == "http":
                headers = {
                    name: value.decode("latin-1") for name, value in scope["headers"]
                }
                why = self.refusal(
                    scope["path"],
                    headers.get(VERSION_HEADER.lower().encode()),
                    headers.get(WARM_UP_HEADER.lower().encode()),
                )
                if why is not None:
                    from fastapi.responses import JSONResponse

                    refused = JSONResponse({"error": why}, status_code=503)
                    await refused(scope, receive, send)
                    return
            await app(scope, receive, send)

        return guarded


class _WarmUpClient:
    """A module `requests` with a header more in what it posts."""

    def __init__(self, requests: ModuleType, value: str | None):
        self._requests, self._value = requests, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requests, name)

    def post(self, *args, headers=None, **kwargs):
        headers = {**(headers or {}), WARM_UP_HEADER: self._value}
        return self._requests.post(*args, headers=headers, **kwargs)


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _number_up_to(text: str, largest: int) -> bool:
    try:
        return int(text) <= largest
    except ValueError:
        return False


class OpenRequest(BaseModel):
    """Body of `POST /cppo/open`; `version` null closes the gate."""

    version: int | None


def add_endpoints(app: Any, gate: Gate, rpc: Any) -> None:
    """Give SGLang's application the gate and the two endpoints.

    Parameters
    ----------
    app
        SGLang's FastAPI application, before it serves.
    rpc
        AReaL's `RpcProxy`: its `collective_rpc` runs a method in every scheduler.
    """
    app.add_middleware(gate.around)
    one_at_a_time = threading.Lock()  # the proxy has one socket

    @app.post(OPEN_PATH)
    async def open_for(request: OpenRequest) -> dict[str, Any]:
        gate.open_for(request.version)
        return {"version": gate.version}

    @app.post(COMPARE_PATH)
    def compare_weights() -> dict[str, Any]:
        with one_at_a_time:
            try:
                rpc.collective_rpc("cppo_compare_weights")
            except RuntimeError as error:  # what the scheduler's method raised
                return {"equal": False, "message": str(error)}
        return {"equal": True, "message": ""}
