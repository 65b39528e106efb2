"""Requests to a server, and whether what it answers can be what it was asked for.

The token goes along, and no payload is ever logged. SGLang's format of a response:
`meta_info.output_token_logprobs` is a list of [log-prob in nats, token id, text],
`meta_info.finish_reason.type` says why generation ended.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
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

FINISH_REASONS = ("stop", "length", "tool_calls", "abort")

# A log-prob of a near-certain token may come out a little above 0 in bfloat16.
LARGEST_LOGPROB = 1e-2


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

    def order(self, request: HttpRequest, timeout: float) -> None:
        """Send what the server may answer that it failed at; a `ServerError`, too."""
        answer = self.send(request, timeout)
        if isinstance(answer, dict) and answer.get("success") is False:
            raise ServerError(f"{request.endpoint} answered that it failed")

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
        answer = self.send(HttpRequest(OPEN_PATH, {"version": version}), timeout)
        if answer != {"version": version}:  # somebody else has its port
            raise ServerError(f"{OPEN_PATH} answered nonsense")

    def missing(self, timeout: float) -> str | None:
        """What of an update over the wire has not come as sent; None: all has."""
        answer = self.send(HttpRequest(COMPARE_PATH, {}), timeout)
        if not isinstance(answer, dict) or not isinstance(answer.get("equal"), bool):
            raise ServerError(f"{COMPARE_PATH} answered nonsense")
        return None if answer["equal"] else str(answer.get("message"))[:300]


def nonsense(answer: Any, vocabulary: int | None, most: int) -> str | None:
    """What is wrong with a response; None: nothing is.

    Parameters
    ----------
    answer
        Parsed JSON.
    vocabulary
        Token ids are smaller; None: not known.
    most
        Tokens that were asked for.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("meta_info"), dict):
        return "no meta_info in it"
    meta = answer["meta_info"]
    reason = meta.get("finish_reason")
    if not isinstance(reason, dict) or reason.get("type") not in FINISH_REASONS:
        return "an unknown finish reason"
    tokens = meta.get("output_token_logprobs")
    if tokens is None and reason["type"] == "abort":
        return None  # aborted before it began
    if not isinstance(tokens, list):
        return "no list of tokens in it"
    if len(tokens) > most:
        return f"{len(tokens)} tokens, of at most {most}"
    if not tokens and reason["type"] in ("length", "tool_calls"):
        return f"no tokens, but finish reason {reason['type']}"
    ids = answer.get("output_ids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(tokens)):
        return "unequal lists of tokens and log-probs"
    for place, entry in enumerate(tokens):
        if not isinstance(entry, list) or len(entry) < 2:
            return f"token {place} has no log-prob"
        logprob, token = entry[0], entry[1]
        if not _integer(token) or token < 0 or (vocabulary and token >= vocabulary):
            return f"token {place} is outside the vocabulary"
        if isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return f"token {place} has no log-prob"
        if not math.isfinite(logprob) or logprob > LARGEST_LOGPROB:
            return f"token {place} has an impossible log-prob"
        if ids is not None and ids[place] != token:
            return "unequal lists of tokens and log-probs"
    return None


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def vocabulary_of(model: str | Path) -> int | None:
    """Rows of a model folder's embedding; None where its config.json doesn't say."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    size = config.get("vocab_size")
    if size is None:
        size = (config.get("text_config") or {}).get("vocab_size")
    return size if _integer(size) else None
