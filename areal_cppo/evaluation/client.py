"""Asks generation servers, many requests at a time, and tells what is the matter.

No payload is ever printed: it holds images.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import aiohttp
from areal.api import ModelRequest
from areal.api.io_struct import HttpGenerationResult, HttpRequest

from areal_cppo.errors import RunError, UserError
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import CPPOBackend

_BACKEND = CPPOBackend()
_TRIES = 3
_PAUSE_SECONDS = 1.0
# After so many refusals and not one answer the fault is not with the requests.
_HOPELESS = 16
_SHOWN = 200  # characters of a server's complaint


class Client:
    """Sends requests to servers in turn; use it as an async context manager.

    Parameters
    ----------
    addresses
        `http://host:port` of each.
    concurrency
        Requests at a time, all servers together.
    timeout_seconds
        Of one request.
    note
        Told in a line what a server complains of, the first time.
    """

    def __init__(
        self,
        addresses: list[str],
        concurrency: int,
        timeout_seconds: float,
        note: Callable[[str], None],
    ) -> None:
        self._addresses = itertools.cycle(addresses)
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._note = note
        self._answered = 0
        self._refused = 0

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, connector=aiohttp.TCPConnector(limit=0)
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def respond(self, request: ModelRequest) -> HttpGenerationResult:
        """A whole response to a request; raises as `send`."""
        http = _BACKEND.build_generation_request(request, with_lora=False, version=0)
        result = _BACKEND.parse_generation_response(await self.send(http))
        if result.stop_reason == "abort":  # somebody paused the server
            raise Refused("aborted")
        return result

    async def send(self, request: HttpRequest) -> dict[str, Any]:
        """A server's answer.

        Raises
        ------
        Refused
            `request_failed`: the server answered with an error.
        RunError
            It didn't answer at all, or refuses everything.
        """
        async with self._slots:
            address = next(self._addresses)
            for attempt in range(_TRIES):
                try:
                    status, answer = await self._post(address, request)
                except (aiohttp.ClientError, TimeoutError) as error:
                    complaint = f"{type(error).__name__}: {error}".rstrip(": ")
                    if attempt == _TRIES - 1:
                        raise RunError(
                            f"the generation server at {address} does not answer "
                            f"({complaint}); what was measured is kept"
                        ) from error
                else:
                    if status < 400:
                        self._answered += 1
                        return answer
                    complaint = f"status {status}, {' '.join(answer.split())[:_SHOWN]}"
                    if status < 500:  # it would say the same again
                        break
                await asyncio.sleep(_PAUSE_SECONDS * attempt)
        return self._refuse(address, complaint)

    def _refuse(self, address: str, complaint: str):
        self._refused += 1
        if self._refused == 1:
            self._note(f"{address} refused a request: {complaint}")
        if self._refused >= _HOPELESS and not self._answered:
            raise RunError(f"{address} refuses every request: {complaint}")
        raise Refused("request_failed")

    async def _post(self, address: str, request: HttpRequest) -> tuple[int, Any]:
        url = address + request.endpoint
        async with self._session.post(url, json=request.payload) as reply:
            if reply.status < 400:
                return reply.status, await reply.json()
            return reply.status, await reply.text(errors="replace")


def check_server(address: str) -> str:
    """A running server's address without its end; a UserError unless it answers."""

    async def healthy() -> bool:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(address.rstrip("/") + "/health") as reply:
                return reply.status == 200

    # SGLang 0.5.10.post1 loses a check that arrives in the moment in which a batch
    # ends, and answers 503 after 20 s, though nothing is wrong.
    try:
        if any(asyncio.run(healthy()) for _ in range(2)):
            return address.rstrip("/")
        found = "none that is healthy"
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        found = f"none ({type(error).__name__})"
    raise UserError(
        f"--server: expected a running server such as http://127.0.0.1:30000, found "
        f"{found} at {address}; start one with `areal-cppo serve`"
    )
