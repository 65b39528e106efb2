"""AReaL's SGLang rollout: refusals early and counted, groups whole, versions as sent.

A response that contains a vision token can't be used: whoever reads it looks for one
more image. If generation is interrupted by a weight update, AReaL sends prompt and
partial response again; SGLang would answer 500 to such a one, AReaL would retry, print
the request with its images and lose the whole group. So it is refused before that.

AReaL stamps tokens with the version of the policy when they arrive. If the weights were
updated in between, they look fresher than they are; so here each part of a response
(there are several if it was interrupted) has the version its request was sent with.

The stock controller averages its workers' statistics and drops the counts; this one
keeps the totals of the counters.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import defaultdict
from dataclasses import replace
from itertools import groupby
from typing import Any

from areal.api import ModelRequest, ModelResponse, RolloutWorkflow
from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine, SGLangBackend
from areal.infra import RemoteInfEngine
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow

from areal_cppo.serving.server import SERVER_VARIABLES
from areal_cppo.training.recover.rollout import LedgerRolloutController

REFUSED = "refused/"  # 0 or 1 per response (or group), recorded by the workflow

IMAGE_TOKENS = ("<|image_pad|>", "<|video_pad|>")

# In a request's metadata: (version, tokens before it) of each part sent, in order.
_SENT = "cppo_sent"


class Refused(Exception):
    """A response that can't be trained on; counted as `refused/<reason>`."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class VisionTokenSampled(Refused):
    """A response holds a vision token, with no image behind it."""

    def __init__(self):
        super().__init__("vision_token")


class CPPOBackend(SGLangBackend):
    """AReaL's SGLang requests, but none that SGLang would fail on."""

    def build_generation_request(self, req, with_lora, version):
        """AReaL's request, called just before it is sent; notes the version.

        Raises `VisionTokenSampled` if there are more images in the tokens than there
        are images.
        """
        vocabulary = req.tokenizer.get_vocab()
        ids = {vocabulary[token] for token in IMAGE_TOKENS if token in vocabulary}
        runs = sum(is_image for is_image, _ in groupby(i in ids for i in req.input_ids))
        if runs > len(req.image_data or []):
            raise VisionTokenSampled
        if _SENT in req.metadata:
            req.metadata[_SENT].append((version, len(req.input_ids)))
        return super().build_generation_request(req, with_lora, version)

    def launch_server(self, server_args):
        """AReaL's server, with no memory of images across weight updates."""
        for name, value in SERVER_VARIABLES.items():
            os.environ.setdefault(name, value)
        return super().launch_server(server_args)


class GroupWorkflow(RolloutWorkflow):
    """A workflow that makes whole groups, and decides what becomes of them."""

    @abstractmethod
    async def arun_group(
        self, engine, data: dict[str, Any], size: int
    ) -> dict[str, Any] | None:
        """`size` responses to a problem as one trajectory dict; None: none is used."""

    async def arun_episode(self, engine, data: dict[str, Any]) -> dict[str, Any] | None:
        """One response, a group of its own."""
        return await self.arun_group(engine, data, 1)


class _WholeGroup(RolloutWorkflow):
    """What AReaL runs for each problem, in place of its `GroupedRolloutWorkflow`."""

    def __init__(self, workflow: GroupWorkflow, size: int):
        self.workflow = workflow
        self.size = size

    async def arun_episode(self, engine, data):
        return await self.workflow.arun_group(engine, data, self.size)


class CPPOInfEngine(RemoteInfEngine):
    """AReaL's client of the generation servers, with versions as sent, groups whole."""

    async def agenerate(self, req: ModelRequest) -> ModelResponse:
        """AReaL's response; its `output_versions` are those its parts were sent with.

        A request that failed and was sent again keeps the version of its first time:
        its tokens may look older than they are, never fresher.
        """
        sent: list[tuple[int, int]] = []
        response = await super().agenerate(
            replace(req, metadata={**req.metadata, _SENT: sent})
        )
        ends = [start for _, start in sent[1:]]
        ends.append(response.input_len + response.output_len)
        response.output_versions = [
            version
            for (version, start), end in zip(sent, ends, strict=True)
            for _ in range(end - start)
        ]
        return response

    def _resolve_workflow(
        self, workflow, workflow_kwargs, group_size=1, proxy_addr=None
    ):
        single = super()._resolve_workflow(workflow, workflow_kwargs, 1, proxy_addr)
        if group_size == 1:
            return single
        if isinstance(single, GroupWorkflow):
            return _WholeGroup(single, group_size)
        return GroupedRolloutWorkflow(single, group_size, self.logger)


class CPPORolloutController(LedgerRolloutController):
    """AReaL's rollout controller with a ledger, and counts of what was refused."""

    def _collective_rpc(self, method, *args, **kwargs):
        replies = super()._collective_rpc(method, *args, **kwargs)
        if method == "export_stats":
            self._worker_stats = replies
        return replies

    def export_stats(self) -> dict[str, float]:
        """Statistics since the last call, averaged over workers by AReaL.

        For each counter `.../refused/<reason>` there is `.../refused/<reason>/total`,
        the number of responses refused for it (of groups: `group_dropped`).
        """
        stats = super().export_stats()
        totals: dict[str, float] = defaultdict(float)
        for reply in self._worker_stats:
            for key, mean in reply.items():
                if REFUSED in key and not key.endswith("__count"):
                    totals[f"{key}/total"] += mean * reply[f"{key}__count"]
        stats.update({key: float(round(total)) for key, total in totals.items()})
        return stats


class CPPORolloutEngine(RemoteSGLangEngine):
    """AReaL's SGLang engine, controlled by `CPPORolloutController`.

    Workers import it by name: it has to live at module level.
    """

    def __init__(self, config: InferenceEngineConfig):
        self.config = config
        self._engine = CPPOInfEngine(config, CPPOBackend())

    @classmethod
    def as_controller(cls, config: InferenceEngineConfig, scheduler):
        return CPPORolloutController(cls, config=config, scheduler=scheduler)
