"""What a server of a training run has that SGLang lacks: a secret, a gate, a check.

Secret: the token that requests must carry is not shown where SGLang prints its
arguments.

Gate: a server that was just started, or started again, may listen with weights that
are not the run's current ones. So it is born closed, answers 503 to requests for
tokens, and is opened for one version of the weights, by whoever has verified them. A
request says in `X-Weights-Version` which version it was made for; it gets 503 from a
server of an older one. Whoever sends it: no worker has to know the state of a server
that it doesn't watch.

Check: `POST /cppo/compare_weights` compares what the server holds with a folder of
weights (`areal_cppo.serving.held_weights`).

This module is imported by SGLang's processes: it must not import torch or areal itself.
"""

import threading
from typing import Any

from pydantic import BaseModel

VERSION_HEADER = "X-Weights-Version"
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

    def refusal(self, path: str, asked: str | None) -> str | None:
        """Why a request is refused; None: it is let through.

        Parameters
        ----------
        path
            Of the request.
        asked
            Its `X-Weights-Version`; None: any version will do.
        """
        if path not in _GUARDED:
            return None
        if self.version is None:
            return "closed: its weights have not been verified"
        if asked is not None and not _number_up_to(asked, self.version):
            return f"it has version {self.version} of the weights, not {asked[:20]}"
        return None

    def around(self, app):
        """The ASGI application with this gate in front of it."""

        async def guarded(scope, receive, send):
            if scope["type"] == "http":
                headers = dict(scope["headers"])
                asked = headers.get(VERSION_HEADER.lower().encode())
                why = self.refusal(scope["path"], asked and asked.decode("latin-1"))
                if why is not None:
                    from fastapi.responses import JSONResponse

                    refused = JSONResponse({"error": why}, status_code=503)
                    await refused(scope, receive, send)
                    return
            await app(scope, receive, send)

        return guarded


def _number_up_to(text: str, largest: int) -> bool:
    try:
        return int(text) <= largest
    except ValueError:
        return False


class OpenRequest(BaseModel):
    """Body of `POST /cppo/open`; `version` null closes the gate."""

    version: int | None


class CompareRequest(BaseModel):
    """Body of `POST /cppo/compare_weights`."""

    path: str  # a folder of weights, or of a LoRA adapter
    adapter: str | None = None  # the name under which an adapter was loaded


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
        gate.version = request.version
        return {"version": gate.version}

    @app.post(COMPARE_PATH)
    def compare_weights(request: CompareRequest) -> dict[str, Any]:
        with one_at_a_time:
            try:
                rpc.collective_rpc(
                    "cppo_compare_weights", path=request.path, adapter=request.adapter
                )
            except RuntimeError as error:  # what the scheduler's method raised
                return {"equal": False, "message": str(error)}
        return {"equal": True, "message": ""}
