"""AReaL's SGLang rollout with what CPPO's metrics need from it.

The stock controller averages its workers' statistics and drops the counts. Refused
responses have to be counted, so this one keeps the totals of the counters.
"""

from __future__ import annotations

from collections import defaultdict

from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine
from areal.infra.controller import RolloutController

REFUSED = "refused/"  # 0 or 1 per response, recorded by the workflow


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

    @classmethod
    def as_controller(cls, config: InferenceEngineConfig, scheduler):
        return CPPORolloutController(cls, config=config, scheduler=scheduler)
