"""One response from whichever servers are up, however often one fails.

AReaL's own loop sends a failed request to the same server again and puts the request,
images included, into its error. This one sends it to another server, checks what comes
back (`client.nonsense`), and logs type, status, server and attempt only.

A response has several parts if it was interrupted (by a weight update: the server
answers `abort` with what it has). A part that was received and is sound is kept,
whatever happens to the next.

Each part has the version of the policy with which its request was sent. The server
refuses it if its weights are older (`areal_cppo.serving.guard`); they may be newer, if
an update came in between. So tokens may look older than they are, never fresher.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import orjson
from areal.api import ModelRequest, ModelResponse
from areal.api.io_struct import HttpGenerationResult, HttpRequest
from areal.utils import logging

from areal_cppo.config.operation import ServersConfig
from areal_cppo.rollout.servers.client import authorization, nonsense
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.state import UP
from areal_cppo.serving.guard import VERSION_HEADER

logger = logging.getLogger("Generation")

_PAUSE_SECONDS = 0.05  # between two looks whether generation goes on
_WATCH_SECONDS = 1.0  # between two looks at the server of a request under way
_RETRY_SECONDS = 0.5
_MOST_EMPTY = 60  # parts in a row without a token, each after `_RETRY_SECONDS`


class RequestFailed(RuntimeError):
    """A request failed at every attempt; the message holds nothing of the request."""


class _AttemptFailed(Exception):
    """One attempt failed. `wrong`: the server answered, but nothing of use."""

    def __init__(self, reason: str, wrong: bool = False):
        super().__init__(reason)
        self.wrong = wrong


@dataclass
class _Part:
    """What is known of a response so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    experts: list[Any] = field(default_factory=list)
    reason: str | None = None
    resent: int = 0
    failed: int = 0
    empty: int = 0
    tried: set[str] = field(default_factory=set)
    address: str | None = None  # of the last good part

    def take(self, result: HttpGenerationResult, version: int, address: str) -> None:
        self.tokens += result.output_tokens
        self.logprobs += result.output_logprobs
        self.versions += [version] * len(result.output_tokens)
        if result.routed_experts is not None:
            self.experts.append(result.routed_experts)
        self.reason, self.address = result.stop_reason, address
        self.empty = 0 if result.output_tokens else self.empty + 1
        self.tried.clear()


class Generator:
    """Sends requests for responses; one per worker.

    Parameters
    ----------
    fleet
        The servers.
    backend
        AReaL's: makes requests, reads answers.
    settings
        Of `rollout.servers`.
    request_seconds
        Longest time of an attempt, and for which it is waited until a server is up.
    token
        That servers ask for; may be empty.
    vocabulary
        Rows of the model's embedding; None: not checked.
    on_answer
        Called with a server's address, and what was unusable about its answer or None.
    on_resent
        Called with the address of the server that failed, and why.
    """

    def __init__(
        self,
        fleet: Fleet,
        backend,
        settings: ServersConfig,
        request_seconds: float,
        token: str = "",
        vocabulary: int | None = None,
        on_answer: Callable[[str, str | None], None] = lambda address, wrong: None,
        on_resent: Callable[[str, str], None] = lambda address, reason: None,
    ):
        self.fleet = fleet
        self.vocabulary = vocabulary
        self._backend = backend
        self._settings = settings
        self._seconds = request_seconds
        self._headers = authorization(token)
        self._on_answer = on_answer
        self._on_resent = on_resent

    async def generate(
        self,
        session: aiohttp.ClientSession,
        request: ModelRequest,
        with_lora: bool,
        version: Callable[[], int],
        is_paused: Callable[[], bool],
    ) -> tuple[ModelResponse, int]:
        """A response, and how often a request for it was sent again.

        Parameters
        ----------
        request
            Left as it is.
        version
            The policy's, now.
        is_paused
            Whether nothing is to be sent, as during a weight update.

        Raises
        ------
        RequestFailed
            All attempts failed, or no server was up for too long.
        """
        started = time.perf_counter()
        request = request.copy()
        wanted = _tokens_wanted(request)
        part = _Part()
        while part.reason in (None, "abort") and len(part.tokens) < wanted:
            while is_paused():
                await asyncio.sleep(_PAUSE_SECONDS)
            if part.empty:
                if part.empty > _MOST_EMPTY:
                    raise RequestFailed("the server aborts a request again and again")
                await asyncio.sleep(_RETRY_SECONDS)
            address = await self._server(part)
            sent = version()
            request.gconfig.max_new_tokens = wanted - len(part.tokens)
            http = self._backend.build_generation_request(request, with_lora, sent)
            try:
                result = await self._attempt(session, address, http, sent)
            except _AttemptFailed as failure:
                await self._resend(part, address, failure)
                continue
            part.take(result, sent, address)
            request.input_ids += result.output_tokens
        seconds = time.perf_counter() - started
        return _response(request, part, seconds), part.resent

    async def _server(self, part: _Part) -> str:
        """The server to ask, once one is up.

        Where all are lost nothing is asked any more: the controller ends the run, and
        a problem that could not be tried is not charged with it.
        """
        waited = time.monotonic()
        while True:
            address = self.fleet.choose(part.tried, part.address)
            if address is not None:
                return address
            if time.monotonic() - waited > self._seconds:
                raise RequestFailed(f"no server was up for {self._seconds:.0f} s")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _resend(self, part: _Part, address: str, failure: _AttemptFailed) -> None:
        part.failed += 1
        # What one request gets again and again may be the request's fault.
        if failure.wrong and address not in part.tried:
            self._on_answer(address, str(failure))
        part.tried.add(address)
        self.fleet.avoid(address)
        most = self._settings.request_attempts
        logger.warning(
            "a request to %s failed: %s (attempt %d of %d)",
            address,
            failure,
            part.failed,
            most,
        )
        if part.failed >= most:
            raise RequestFailed(
                f"a request failed {most} times, at last at {address}: {failure}"
            )
        part.resent += 1
        self._on_resent(address, str(failure))
        if self.fleet.choose(part.tried) in part.tried:
            await asyncio.sleep(_RETRY_SECONDS)  # there is no other

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        address: str,
        http: HttpRequest,
        version: int,
    ) -> HttpGenerationResult:
        sending = asyncio.ensure_future(self._post(session, address, http, version))
        try:
            while not sending.done():
                await asyncio.wait({sending}, timeout=_WATCH_SECONDS)
                state = self.fleet.state(address)
                if not sending.done() and state != UP:
                    raise _AttemptFailed(f"the server is {state}")
            status, body = sending.result()
        except TimeoutError:
            raise _AttemptFailed(f"no answer in {self._seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _AttemptFailed(type(error).__name__) from None
        finally:
            sending.cancel()
        if status != 200:
            # 503: its gate is closed, or it has too much to do; below 500: our fault.
            wrong = status >= 500 and status != 503
            raise _AttemptFailed(f"status {status}", wrong)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _AttemptFailed("the answer is not JSON", wrong=True) from None
        most = http.payload["sampling_params"]["max_new_tokens"]
        wrong = nonsense(answer, self.vocabulary, most)
        if wrong is not None:
            raise _AttemptFailed(f"nonsense: {wrong}", wrong=True)
        self._on_answer(address, None)
        return self._backend.parse_generation_response(answer)

    async def _post(
        self,
        session: aiohttp.ClientSession,
        address: str,
        http: HttpRequest,
        version: int,
    ) -> tuple[int, bytes]:
        async with session.post(
            f"http://{address}{http.endpoint}",
            json=http.payload,
            headers={**self._headers, VERSION_HEADER: str(version)},
            timeout=aiohttp.ClientTimeout(total=self._seconds),
        ) as answer:
            return answer.status, await answer.read()


def _tokens_wanted(request: ModelRequest) -> int:
    """How many tokens a response may have."""
    gconfig, prompt = request.gconfig, len(request.input_ids)
    if gconfig.n_samples != 1:
        raise ValueError(f"expected n_samples 1, found {gconfig.n_samples}")
    wanted = min(gconfig.max_tokens - prompt, gconfig.max_new_tokens)
    if wanted <= 0:
        raise ValueError(
            f"expected a prompt shorter than max_tokens {gconfig.max_tokens}, found "
            f"{prompt} tokens (max_new_tokens {gconfig.max_new_tokens})"
        )
    return wanted


def _response(request: ModelRequest, part: _Part, seconds: float) -> ModelResponse:
    return ModelResponse(
        input_tokens=request.input_ids[: len(request.input_ids) - len(part.tokens)],
        input_images=request.image_data,
        output_tokens=part.tokens,
        output_logprobs=part.logprobs,
        output_versions=part.versions,
        # Aborted when it had all its tokens: that is its length.
        stop_reason="length" if part.reason == "abort" else part.reason,
        latency=seconds,
        ttft=seconds,
        tokenizer=request.tokenizer,
        processor=request.processor,
        routed_experts=np.concatenate(part.experts) if part.experts else None,
    )
