"""The rollout workflow: AReaL's vision workflow for whole groups.

What the responses to a problem have in common is made once: the image processor and the
encoding of the images run per group, not per response. What can't be trained on is
refused and counted (`refusals.py`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from areal import workflow_context
from areal.api import InferenceEngine, RolloutWorkflow
from areal.api.cli_args import GenerationHyperparameters
from areal.utils import logging, stats_tracker
from areal.utils.hf_utils import load_hf_processor_and_tokenizer
from areal.utils.image import image2base64
from areal.utils.perf_tracer import (
    atrace_session_phase,
    session_context,
    trace_session,
)
from areal.workflow.vision_rlvr import VisionRLVRWorkflow
from typing_extensions import override

from areal_cppo.config.augmentation import AugmentationConfig
from areal_cppo.config.blocks import REWARD_PARTS, SAMPLE, GroupsConfig, RewardConfig
from areal_cppo.rewards.parts import Reward
from areal_cppo.rewards.pool import (
    RewardError,
    RewardTimeout,
    function_name,
    shared_pool,
)
from areal_cppo.rollout.augmentation import Augmenter
from areal_cppo.rollout.refusals import (
    FEWEST,
    GROUP_ALL_EQUAL,
    GROUP_DROPPED,
    REASONS,
    REFUSED,
    Refused,
    VisionTokenSampled,
)
from areal_cppo.rollout.requests import VISION_TOKENS, Prompt
from areal_cppo.rollout.samples import RefusedSamples, about
from areal_cppo.rollout.trajectories import joined, response_trajectory

logger = logging.getLogger("CPPOWorkflow")

# What AReaL's client raises when its retries are used up, or the answer is no JSON.
_REQUEST_ERRORS = (RuntimeError, ValueError, OSError)


class GroupWorkflow(RolloutWorkflow):
    """A workflow that makes whole groups, and decides what becomes of them."""

    @abstractmethod
    async def arun_group(
        self, engine, data: dict[str, Any], size: int
    ) -> dict[str, Any] | None:
        """`size` responses to a problem as one trajectory dict; None: none is used."""

    @override
    async def arun_episode(self, engine, data: dict[str, Any]) -> dict[str, Any] | None:
        """One response, a group of its own."""
        return await self.arun_group(engine, data, 1)


class WholeGroup(RolloutWorkflow):
    """What AReaL runs for each problem, in place of its `GroupedRolloutWorkflow`."""

    def __init__(self, workflow: GroupWorkflow, size: int):
        self.workflow = workflow
        self.size = size

    @override
    async def arun_episode(self, engine, data):
        return await self.workflow.arun_group(engine, data, self.size)


class CPPOWorkflow(GroupWorkflow, VisionRLVRWorkflow):
    """AReaL's `VisionRLVRWorkflow` for CPPO; the module's docstring says what it adds.

    Parameters
    ----------
    reward_fn
        Of AReaL's signature, or where it is (`rewards/loading.py`); it may return its
        parts by name instead of one number (`rewards/parts.py`). It runs in a process
        of its own and is told, of the dataset's item, nothing but what `reward.sees`
        names.
    gconfig, tokenizer, processor, enable_thinking
        As AReaL takes them.
    reward, groups
        Fields of `RewardConfig` and `GroupsConfig`; their defaults if left out.
    max_prompt_tokens
        Longest prompt, tokens; no limit by default.
    context_length
        Of the server, tokens: prompt and `gconfig.max_new_tokens` have to fit in it,
        as they have to in `gconfig.max_tokens`.
    samples
        Folder where refused responses are written, to be read; other responses then
        take along what their samples say. None: neither.
    augmentation, seed, steps
        Fields of `AugmentationConfig`, its defaults if left out, the seed of what it
        draws, and how many steps the run has.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any] | str,
        gconfig: GenerationHyperparameters,
        tokenizer,
        processor,
        enable_thinking: bool = False,
        reward: dict[str, Any] | None = None,
        groups: dict[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        context_length: int | None = None,
        samples: str | None = None,
        augmentation: dict[str, Any] | None = None,
        seed: int = 1,
        steps: int | None = None,
    ):
        if isinstance(processor, str):  # AReaL's loader caches; its workflow's doesn't
            processor, _ = load_hf_processor_and_tokenizer(processor)
        name = function_name(reward_fn)  # of a string AReaL makes no process pool
        super().__init__(name, gconfig, tokenizer, processor, enable_thinking)
        known = self.tokenizer.get_vocab()
        self._vision_ids = {known[token] for token in VISION_TOKENS if token in known}
        settings = RewardConfig(**reward or {})
        self._rewards = shared_pool(
            name,
            settings.timeout_seconds,
            settings.processes,
            tuple(settings.part_weights.items()),
        )
        self._sees = settings.sees
        of_groups = GroupsConfig(**groups or {})
        self._drop_failed = of_groups.on_failed_response == "drop"
        self._drop_equal = of_groups.all_equal == "drop"
        self._samples = RefusedSamples(samples)
        self._augmentation = AugmentationConfig(**augmentation or {})
        self._augmenter = Augmenter(self._augmentation, seed, steps)
        limits = [self.gconfig.max_tokens - self.gconfig.max_new_tokens]
        if context_length is not None:
            limits.append(context_length - self.gconfig.max_new_tokens)
        if max_prompt_tokens is not None:
            limits.append(max_prompt_tokens)
        self._longest_prompt = min(limits)

    async def arun_group(
        self, engine: InferenceEngine, data: dict[str, Any], size: int
    ) -> dict[str, Any] | None:
        """`size` responses to the problem `data`, those that can be trained on.

        Returns
        -------
        dict or None
            AReaL's trajectory dict, a row per response that is left; None if the group
            is dropped.
        """
        prompt = await self._prepare(data)
        seen = [prompt] * size
        if len(prompt.input_ids) > self._longest_prompt:
            outcomes = [Refused("prompt_too_long")] * size
        else:
            seen = await self._seen(prompt, data, size, engine)
            outcomes = await asyncio.gather(
                *[self._respond(engine, each, data) for each in seen]
            )
        stats = stats_tracker.get(workflow_context.stat_scope())
        for each, outcome in zip(seen, outcomes, strict=True):
            if self._augmentation.on:
                stats.scalar(augmented=float(each is not prompt))
            reason = getattr(outcome, "reason", None)
            stats.scalar(**{REFUSED + r: float(reason == r) for r in REASONS})
        kept = [
            (each, outcome)
            for each, outcome in zip(seen, outcomes, strict=True)
            if isinstance(outcome, dict)
        ]
        if len(kept) < size:
            refused = [each for each in outcomes if isinstance(each, Refused)]
            await asyncio.to_thread(self._samples.keep, refused, data, prompt)
        needed = size if self._drop_failed else min(size, FEWEST)
        dropped = len(kept) < needed
        if size > 1:
            stats.scalar(**{REFUSED + GROUP_DROPPED: float(dropped)})
        if dropped or self._teaches_nothing(kept, size):
            return None
        return joined(kept, prompt if self._augmentation.trains_unlike else None)

    def _teaches_nothing(self, kept: list[tuple[Prompt, dict]], size: int) -> bool:
        """Whether a group is dropped as its rewards are all equal; counts it."""
        if not self._drop_equal or size == 1 or workflow_context.get().is_eval:
            return False
        equal = len({float(each["rewards"]) for _, each in kept}) == 1
        stats = stats_tracker.get(workflow_context.stat_scope())
        stats.scalar(**{REFUSED + GROUP_ALL_EQUAL: float(equal)})
        return equal

    async def _prepare(self, data: dict[str, Any]) -> Prompt:
        images = await asyncio.to_thread(image2base64, data["images"])
        return Prompt.of(data, self.processor, self.tokenizer, images)

    async def _seen(
        self, prompt: Prompt, data: dict[str, Any], size: int, engine: InferenceEngine
    ) -> list[Prompt]:
        """What each response is sampled from; at most two are different."""
        if not self._augmentation.on or workflow_context.get().is_eval:
            return [prompt] * size
        version = engine.get_version()
        images, seeing = await asyncio.to_thread(
            self._augmenter.changed, data["images"], size, version
        )
        if not seeing:
            return [prompt] * size
        changed = await self._prepare(data | {"images": images})
        return [changed] * seeing + [prompt] * (size - seeing)

    async def _respond(
        self, engine: InferenceEngine, prompt: Prompt, data: dict[str, Any]
    ) -> dict[str, Any] | Refused:
        """One response as a trajectory of batch size 1, or why it is refused."""
        request = prompt.request(self.gconfig, self.processor, self.tokenizer)
        told = {name: data[name] for name in self._sees}
        try:
            response, reward = await self._collect_samples(
                engine, request, prompt.text, told
            )
        except Refused as refused:
            return refused
        trajectory = response_trajectory(prompt, response, reward.value)
        if reward.parts:
            trajectory["multi_modal_input"][0][REWARD_PARTS] = reward.parts
        if self._samples.folder:
            trajectory["multi_modal_input"][0][SAMPLE] = about(data, reward)
        return trajectory

    @session_context()
    @override
    async def _collect_samples(self, engine, req, prompt_str, task_data):
        """Response and reward; raises `Refused`."""
        try:
            async with atrace_session_phase("generate"):
                response = await engine.agenerate(req)
        except _REQUEST_ERRORS as error:
            logger.warning("a request failed: %s", _without_payload(error))
            raise Refused("request_failed") from None
        try:
            if not self._vision_ids.isdisjoint(response.output_tokens):
                raise VisionTokenSampled
            reward = await self._compute_rewards(response, prompt_str, task_data)
        except Refused as refused:
            refused.tokens = response.output_tokens
            raise
        return response, reward

    @trace_session("reward")
    @override
    async def _compute_rewards(self, resp, prompt_str, task_data) -> Reward:
        """The reward of a response; raises `Refused`."""
        future = self._rewards.submit(
            prompt=prompt_str,
            completions=self.tokenizer.decode(resp.output_tokens),
            prompt_ids=resp.input_tokens,
            completion_ids=resp.output_tokens,
            **task_data,
        )
        try:
            reward = await asyncio.wrap_future(future)
        except RewardTimeout as error:
            logger.warning("a response has no reward: %s", error)
            raise Refused("reward_timeout") from None
        except RewardError as error:
            logger.warning("a response has no reward: %s", error)
            raise Refused("reward_error") from None
        stats_tracker.get(workflow_context.stat_scope()).scalar(reward=reward.value)
        return reward


def _without_payload(error: Exception) -> str:
    """The types of an error and of its cause.

    AReaL's message quotes the request, images included, and the server's address and
    status are in the log already, from its own client.
    """
    _, found, last = str(error).rpartition("Last error: ")
    cause = f" ({last.partition('(')[0]})" if found else ""
    return type(error).__name__ + cause
