"""AReaL's SGLang rollout, with unusable responses refused early and counted.

A response that contains a vision token can't be used: whoever reads it looks for one
more image. If generation is interrupted by a weight update, AReaL sends prompt and
partial response again; SGLang would answer 500 to such a one, AReaL would retry, print
the request with its images and lose the whole group. So it is refused before that.

The stock controller averages its workers' statistics and drops the counts; this one
keeps the totals of the counters.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby

from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine, SGLangBackend
from areal.infra import RemoteInfEngine
from areal.infra.controller import RolloutController

REFUSED = "refused/"  # 0 or 1 per response, recorded by the workflow

IMAGE_TOKENS = ("<|image_pad|>", "<|video_pad|>")


class VisionTokenSampled(Exception):
    """A partial response holds an image token and can't be continued."""


class CPPOBackend(SGLangBackend):
    """AReaL's SGLang requests, but none that SGLang would fail on."""

    def build_generation_request(self, req, with_lora, version):
        """AReaL's request; raises `VisionTokenSampled` if there are more images in the
        tokens than there are images."""
        vocabulary = req.tokenizer.get_vocab()
        ids = {vocabulary[token] for token in IMAGE_TOKENS if token in vocabulary}
        runs = sum(is_image for is_image, _ in groupby(i in ids for i in req.input_ids))
        if runs > len(req.image_data or []):
            raise VisionTokenSampled
        return super().build_generation_request(req, with_lora, version)


class CPPORolloutController(RolloutController):
    """AReaL's rollout controller; `export_stats` also says how many were refused."""

    def _collective_rpc(self, method, *args, **kwargs):
        replies = super()._collective_rpc(method, *args, **kwargs)
        if method == "export_stats":
            self._worker_stats = replies
        return replies

    def export_stats(self) -> dict[str, float]:
        """Statistics since the last call, averaged over workers by AReaL.

        For each counter `.../refused/<reason>` there is `.../refused/<reason>/total`,
        the number of responses refused for it.
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
        self._engine = RemoteInfEngine(config, CPPOBackend())

    @classmethod
    def as_controller(cls, config: InferenceEngineConfig, scheduler):
        return CPPORolloutController(cls, config=config, scheduler=scheduler)
