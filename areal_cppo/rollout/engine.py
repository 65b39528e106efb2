"""AReaL's SGLang rollout: refusals early and counted, groups whole.

A response that contains a vision token can't be used: whoever reads it looks for one
more image. If generation is interrupted by a weight update, AReaL sends prompt and
partial response again; SGLang would answer 500 to such a one, and to one that ends with
the mark before an image, AReaL would retry, print the request with its images and lose
the whole group, and the server would count as broken. So it is refused before that.

What becomes of servers that fail: `areal_cppo.rollout.servers`.

The stock controller averages its workers' statistics and drops the counts; this one
keeps the totals of the counters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from itertools import groupby
from typing import Any

from areal.api import RolloutWorkflow
from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine, SGLangBackend
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow

from areal_cppo.rollout.ledger_controller import LedgerRolloutController
from areal_cppo.rollout.servers.controller import FleetController
from areal_cppo.rollout.servers.engine import RESENT, ServersEngine

REFUSED = "refused/"  # 0 or 1 per response (or group), recorded by the workflow

IMAGE_TOKENS = ("<|image_pad|>", "<|video_pad|>")
IMAGE_MARK = "<|vision_start|>"


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
        """AReaL's request, called just before it is sent.

        Raises `VisionTokenSampled` if there are more images in the tokens than there
        are images, or the mark of one at their end.
        """
        vocabulary = req.tokenizer.get_vocab()
        ids = {vocabulary[token] for token in IMAGE_TOKENS if token in vocabulary}
        runs = sum(is_image for is_image, _ in groupby(i in ids for i in req.input_ids))
        marked = req.input_ids[-1:] == [vocabulary.get(IMAGE_MARK)]
        if runs > len(req.image_data or []) or marked:
            raise VisionTokenSampled
        return super().build_generation_request(req, with_lora, version)


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


class CPPOInfEngine(ServersEngine):
    """AReaL's client of the generation servers, with groups whole."""

    def _resolve_workflow(
        self, workflow, workflow_kwargs, group_size=1, proxy_addr=None
    ):
        single = super()._resolve_workflow(workflow, workflow_kwargs, 1, proxy_addr)
        if group_size == 1:
            return single
        if isinstance(single, GroupWorkflow):
            return _WholeGroup(single, group_size)
        return GroupedRolloutWorkflow(single, group_size, self.logger)


class CPPORolloutController(FleetController, LedgerRolloutController):
    """AReaL's, with a ledger and a watch on servers; `export_stats` also has totals."""

    def _collective_rpc(self, method, *args, **kwargs):
        replies = super()._collective_rpc(method, *args, **kwargs)
        if method == "export_stats":
            self._worker_stats = replies
        return replies

    def export_stats(self) -> dict[str, float]:
        """Statistics since the last call, averaged over workers by AReaL.

        For each counter `.../refused/<reason>` there is `.../refused/<reason>/total`,
        the number of responses refused for it (of groups: `group_dropped`), and
        likewise for `servers/resent`, the number of requests sent again.
        """
        stats = super().export_stats()
        totals: dict[str, float] = defaultdict(float)
        for reply in self._worker_stats:
            for key, mean in reply.items():
                counts = REFUSED in key or RESENT in key
                if counts and not key.endswith("__count"):
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

    def initialize(
        self,
        engine_id: str | None = None,
        addr: str | list[str] | None = None,
        train_data_parallel_size: int | None = None,
        **servers,
    ):
        """AReaL's; `servers` goes to `ServersEngine.initialize`.

        AReaL lets each worker bound staleness for its share of the batch, rounded down,
        so that a run whose servers don't divide the batch waits for ever one day. Here
        the controller alone bounds it: a worker's share is all.
        """
        share = 1 if train_data_parallel_size is None else train_data_parallel_size
        self._engine.initialize(engine_id, addr, share, **servers)

    def server_status(self, states: dict[str, str]) -> dict[str, Any]:
        """How the worker's server is; `states` are those of all servers."""
        return self._engine.server_status(states)

    @classmethod
    def as_controller(cls, config: InferenceEngineConfig, scheduler):
        return CPPORolloutController(cls, config=config, scheduler=scheduler)
