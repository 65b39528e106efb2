"""How fast generation servers answer requests of one shape.

A closed loop: `concurrency` clients, each of which sends its next request when the last
one is answered, until all are. Requests are training's own (AReaL's, by
`areal_cppo.rollout.servers.generation`): with log-probs, not streamed, an interrupted
one is sent again with what it has. So one fails, waits and goes on as in training.

**Latency** goes from sending a request to its whole answer, pauses included. **Time to
first token** is the server's own, from receiving a request to the end of its prompt's
pass: SGLang tells it when it is started with `--enable-metrics`. **Throughput** counts
response tokens, over the time from the first request to the last answer; at its end
fewer than `concurrency` are open, so use several times as many requests.

**Weight update in the middle**: when half of the requests are answered, and a quarter
of the fastest answer's time later (clients in step have only just asked again then, and
the answers to known prompts come sooner), generation is paused, which aborts what is
open, the weights of a folder are loaded, and generation goes on. Aborted requests count
as interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
from areal.api import ModelRequest, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters
from typing_extensions import override

from areal_cppo.bench.rollout_prompts import MeasuredPrompt, PromptMaker
from areal_cppo.bench.rollout_results import Answer, Point
from areal_cppo.config.operation import ServersConfig
from areal_cppo.errors import RunError
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import CPPOBackend
from areal_cppo.rollout.servers.client import ServerClient, ServerError
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import Generator, RequestFailed

_PROGRESS_SECONDS = 5.0
_POLL_SECONDS = 0.02
Note = Callable[[str], None]


class _TimedBackend(CPPOBackend):
    """Notes when the first part of a response had its first token."""

    def __init__(self):
        super().__init__()
        self.first_token: float | None = None
        self.parts = 0

    def begin(self) -> None:
        self.first_token, self.parts = None, 0

    @override
    def parse_generation_response(self, response):
        result = super().parse_generation_response(response)
        meta = response["meta_info"]
        times = meta.get("request_received_ts"), meta.get("prefill_finished_time")
        if not self.parts and all(isinstance(t, int | float) and t > 0 for t in times):
            self.first_token = max(0.0, times[1] - times[0])
        self.parts += 1
        return result


class RolloutBench:
    """Asks servers.

    Parameters
    ----------
    addresses
        `host:port` of each.
    make_prompt
        Of the model that they serve.
    weights
        Folder of weights to load in the middle; the model's own will do.
    timeout_seconds
        Of one request.
    note
        Told of the progress.
    token
        That the servers ask for (SGLang's `--api-key`); may be empty.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        make_prompt: PromptMaker,
        weights: Path | None = None,
        timeout_seconds: float = 600.0,
        note: Note = lambda text: None,
        token: str = "",
    ):
        self.addresses = list(addresses)
        self.make_prompt = make_prompt
        self.weights = weights
        self.timeout_seconds = timeout_seconds
        self.note = note
        self.token = token
        self._settings = ServersConfig()
        self._paused = False
        self._version = 0
        self._generation = GenerationHyperparameters(
            max_new_tokens=make_prompt.shape.response_tokens,
            temperature=1.0,
            ignore_eos=True,
            stop_token_ids=[],
            max_tokens=2**30,
        )

    def measure(
        self,
        concurrencies: Sequence[int],
        requests: int,
        warmup: int,
        points: list[Point],
    ) -> None:
        """Measure at each concurrency, without a weight update and, if asked for, with.

        Parameters
        ----------
        concurrencies, requests
            Requests open at a time, and in all at each.
        warmup
            Requests before, at each concurrency, that do not count.
        points
            Filled as they are measured; at a Ctrl-C the last one may be incomplete.

        Raises
        ------
        RunError
            No request is answered, or the weights can't be loaded.
        """
        for concurrency in concurrencies:
            if warmup:
                self.note(f"concurrency {concurrency}: warming up, {warmup} requests")
                cold = Point(min(concurrency, warmup), warmup, False)
                asyncio.run(self._run(cold))
            for update in (False, True) if self.weights else (False,):
                points.append(Point(concurrency, requests, update))
                asyncio.run(self._run(points[-1]))

    async def _run(self, point: Point) -> None:
        group = self.make_prompt.shape.group
        prompts = [self.make_prompt() for _ in range(-(-point.requests // group))]
        queue = iter([prompts[i // group] for i in range(point.requests)])
        fleet = Fleet(self.addresses)
        connector = aiohttp.TCPConnector(limit=0)
        began = time.perf_counter()
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(min(point.concurrency, point.requests)):
                        tasks.create_task(self._client(session, fleet, queue, point))
                    tasks.create_task(self._progress(point, began))
                    if point.weight_update:
                        tasks.create_task(self._update(point))
        except* RunError as errors:
            raise errors.exceptions[0] from None
        finally:
            point.seconds = time.perf_counter() - began
        self.note(_line(point))

    async def _client(self, session, fleet: Fleet, queue, point: Point) -> None:
        def count(address: str, reason: str) -> None:
            point.resent += 1

        backend = _TimedBackend()
        generator = Generator(
            fleet,
            backend,
            self._settings,
            self.timeout_seconds,
            self.token,
            on_resent=count,
        )
        for prompt in queue:
            try:
                answer = await self._ask(session, generator, backend, prompt)
            except Refused:
                point.refused += 1
            except RequestFailed as error:
                point.failed += 1
                if not point.answers and point.failed >= point.concurrency:
                    raise RunError(
                        f"expected answers from {', '.join(self.addresses)}, found "
                        f"that every request fails ({error}); see the server's log"
                    ) from None
            else:
                point.answers.append(answer)

    async def _ask(self, session, generator, backend, prompt: MeasuredPrompt) -> Answer:
        backend.begin()
        began = time.perf_counter()
        response, _ = await generator.generate(
            session,
            ModelRequest(
                input_ids=prompt.input_ids,
                image_data=prompt.images,
                gconfig=self._generation.new(n_samples=1),
                tokenizer=self.make_prompt.tokenizer,
                processor=self.make_prompt.processor,
            ),
            with_lora=False,
            version=lambda: self._version,
            is_paused=lambda: self._paused,
        )
        return Answer(
            time.perf_counter() - began,
            len(response.output_tokens),
            backend.parts > 1,
            backend.first_token,
        )

    async def _update(self, point: Point) -> None:
        while 2 * point.done < point.requests:
            await asyncio.sleep(_POLL_SECONDS)
        if point.answers:
            await asyncio.sleep(min(a.seconds for a in point.answers) / 4)
        began = time.perf_counter()
        self._paused = True
        try:
            await asyncio.gather(*map(self._load, self.addresses))
            self._version += 1
        finally:
            self._paused = False
        point.update_seconds = time.perf_counter() - began

    async def _load(self, address: str) -> None:
        backend, client = CPPOBackend(), ServerClient(address, self.token)
        meta = WeightUpdateMeta(type="disk", path=str(self.weights))
        update = backend.build_disk_weight_update_requests(meta).requests
        steps = [
            (client.pause, backend.get_pause_request()),
            *((client.send, request) for request in update),
            (client.send, backend.get_resume_request()),
        ]
        expected = f"expected {address} to load the weights of {self.weights}, found"
        for call, request in steps:
            try:
                answer = await asyncio.to_thread(call, request, self.timeout_seconds)
            except ServerError as error:
                raise RunError(
                    f"{expected} that {error}; see the server's log"
                ) from None
            if isinstance(answer, dict) and answer.get("success") is False:
                said = " ".join(str(answer.get("message", "")).split())[:200]
                raise RunError(
                    f"{expected} that it refuses: {said}; give a checkpoint of the "
                    "model it serves"
                )

    async def _progress(self, point: Point, began: float) -> None:
        last = began
        while point.done < point.requests:
            await asyncio.sleep(_POLL_SECONDS)
            now = time.perf_counter()
            if now - last >= _PROGRESS_SECONDS:
                last, point.seconds = now, now - began
                self.note(_line(point))


def _line(point: Point) -> str:
    tokens = sum(answer.tokens for answer in point.answers)
    rate = tokens / point.seconds if point.seconds else 0.0
    update = " with a weight update" if point.weight_update else ""
    return (
        f"concurrency {point.concurrency}{update}: {point.done} of {point.requests} "
        f"requests, {rate:.0f} tokens/s"
    )
