"""Asks every problem and judges every response, with many under way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal.api.cli_args import GenerationHyperparameters
from areal.utils.image import image2base64
from transformers import ProcessorMixin

from areal_cppo.evaluation.client import Client
from areal_cppo.evaluation.folder import EvaluationFolder
from areal_cppo.evaluation.scoring import Scorer
from areal_cppo.evaluation.summary import GREEDY
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import CPPOBackend, Prompt

_BACKEND = CPPOBackend()
_UNKNOWN = dict.fromkeys(
    ("response", "extracted", "correct", "format", "finish_reason", "tokens", "seconds")
)


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
    client: Client
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
            record |= await self._judged(prompt, problem["answer"], sample)
        except Refused as refused:
            record |= _UNKNOWN | {"refused": refused.reason}
        self.folder.add(record)

    async def _judged(
        self, prompt: Prompt, truth: Any, sample: str | int
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
        answer = await self.client.send(
            _BACKEND.build_generation_request(request, with_lora=False, version=0)
        )
        seconds = time.monotonic() - begin
        result = _BACKEND.parse_generation_response(answer)
        if result.stop_reason == "abort":  # somebody paused the server
            raise Refused("aborted")
        response = tokenizer.decode(result.output_tokens)
        verdict = await self.scorer(
            prompt.text, response, prompt.input_ids, result.output_tokens, truth
        )
        return {
            "response": response,
            "extracted": verdict.extracted,
            "correct": verdict.correct,
            "format": verdict.format,
            "finish_reason": result.stop_reason,
            "tokens": len(result.output_tokens),
            "seconds": round(seconds, 3),
        }
