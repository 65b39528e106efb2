"""Asks every problem and judges every response, with many under way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from areal.api import ModelRequest
from areal.api.cli_args import GenerationHyperparameters
from areal.utils.image import image2base64
from transformers import ProcessorMixin

from areal_cppo.evaluation.folder import EvaluationFolder
from areal_cppo.evaluation.scoring import Scorer, Verdict
from areal_cppo.evaluation.summary import GREEDY
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import Prompt

_UNKNOWN = dict.fromkeys(
    ("response", *(field.name for field in fields(Verdict)))
    + ("finish_reason", "tokens", "seconds")
)


class FirstProblems:
    """The first problems of a dataset, all if there are fewer."""

    def __init__(self, dataset, size: int) -> None:
        self.dataset, self.size = dataset, min(size, len(dataset))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index]


class Responder(Protocol):
    """Who answers: servers of a model, or those of a run."""

    async def respond(self, request: ModelRequest) -> Any:
        """A response: `output_tokens` and `stop_reason`; raises `Refused`."""


@dataclass(frozen=True)
class Asker:
    """Asks problems of servers.

    Attributes
    ----------
    processor
        The model's.
    generation
        How responses are sampled; the greedy one differs in `greedy` only.
    context_length
        Of the server, tokens; `None` where only `generation.max_tokens` bounds it.
    client, scorer, folder
        Who answers, who judges, where it goes.
    """

    processor: ProcessorMixin
    generation: GenerationHyperparameters
    context_length: int | None
    client: Responder
    scorer: Scorer
    folder: EvaluationFolder

    async def ask_all(
        self, dataset, k: int, at_a_time: int, done: Callable[[], None]
    ) -> None:
        """Ask each problem of a dataset greedily and `k` times.

        Parameters
        ----------
        dataset
            Items as AReaL's vision workflow takes them.
        at_a_time
            Problems under way.
        done
            Called after each problem.
        """
        indices = iter(range(len(dataset)))
        samples = [GREEDY, *range(k)]

        async def work() -> None:
            for index in indices:
                await self._ask(dataset, index, samples)
                done()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_a_time, len(dataset))):
                group.create_task(work())

    async def _ask(self, dataset, index: int, samples: list[str | int]) -> None:
        missing = [s for s in samples if not self.folder.done((index, s))]
        if not missing:
            return
        # Decoding images and running the processor take long: not in this thread.
        problem, prompt = await asyncio.to_thread(self._prepare, dataset, index)
        async with asyncio.TaskGroup() as group:
            for sample in missing:
                group.create_task(self._respond(index, problem, prompt, sample))

    def _prepare(self, dataset, index: int) -> tuple[dict[str, Any], Prompt]:
        problem = dataset[index]
        images = image2base64(problem["images"])
        tokenizer = self.processor.tokenizer
        return problem, Prompt.of(problem, self.processor, tokenizer, images)

    async def _respond(
        self, index: int, problem: dict[str, Any], prompt: Prompt, sample: str | int
    ) -> None:
        record = {
            "index": index,
            "query_id": problem["query_id"],
            "sample": sample,
            "prompt_tokens": len(prompt.input_ids),
            "answer": str(problem["answer"]),
            "refused": None,
        }
        try:
            record |= await self._judged(prompt, problem, sample)
        except Refused as refused:
            record |= _UNKNOWN | {"refused": refused.reason}
        self.folder.add(record)

    async def _judged(
        self, prompt: Prompt, problem: dict[str, Any], sample: str | int
    ) -> dict[str, Any]:
        """The part of a record that the server and the scorer know."""
        tokenizer = self.processor.tokenizer
        generation = self.generation.new(greedy=sample == GREEDY)
        room = min(generation.max_tokens, self.context_length or generation.max_tokens)
        if len(prompt.input_ids) + generation.max_new_tokens > room:
            raise Refused("prompt_too_long")  # a short response would be unfair
        generation = generation.new_with_stop_and_pad_token_ids(tokenizer)
        request = prompt.request(generation, self.processor, tokenizer)
        begin = time.monotonic()
        result = await self.client.respond(request)
        seconds = time.monotonic() - begin
        response = tokenizer.decode(result.output_tokens)
        verdict = await self.scorer(
            prompt.text, response, prompt.input_ids, result.output_tokens, problem
        )
        return {
            "response": response,
            **asdict(verdict),
            "finish_reason": result.stop_reason,
            "tokens": len(result.output_tokens),
            "seconds": round(seconds, 3),
        }
