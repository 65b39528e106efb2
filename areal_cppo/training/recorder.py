"""Turns AReaL's statistics of a step into a line of `metrics.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from areal_cppo.runs.folder import RunFolder
from areal_cppo.training.batch_stats import STALENESS_BINS
from areal_cppo.training.rollout import REFUSED

_UPDATE = "ppo_actor/update"
_CPL = f"{_UPDATE}/cpl"

# Name in metrics.jsonl -> AReaL's name. report/vocabulary.py explains each.
PLAIN = {
    "reward": "cppo/reward",
    "accuracy": "cppo/correct",
    "response_tokens": "cppo/response_length",
    "staleness_mean": "cppo/staleness/avg",
    "staleness_max": "cppo/staleness/max",
    "policy_loss": f"{_UPDATE}/actor_loss/avg",
    "policy_entropy": f"{_UPDATE}/entropy/avg",
    "importance_weight": f"{_UPDATE}/importance_weight/avg",
    "behaviour_importance_weight": f"{_UPDATE}/behave_imp_weight/avg",
    "clip_ratio": f"{_UPDATE}/clip_ratio/avg",
    "grad_norm": f"{_UPDATE}/grad_norm",
    "lr": f"{_UPDATE}/lr",
    "cpl_loss": f"{_CPL}/loss",
    "cpl_positive_divergence": f"{_CPL}/positive_divergence",
    "cpl_negative_divergence": f"{_CPL}/negative_divergence",
    "cpl_margin": f"{_CPL}/margin",
    "cpl_anchor_entropy": f"{_CPL}/anchor_entropy",
    "cpl_negative_entropy": f"{_CPL}/negative_entropy",
    "cpl_entropy_gain": f"{_CPL}/entropy_gain",
    "cpl_importance_weight": f"{_CPL}/staleness_weight",
    "cpl_view_sequences": f"{_CPL}/view_sequences",
    "cpl_negative_views_unchanged": f"{_CPL}/negative_views_unchanged",
    "seconds_rollout": "timeperf/rollout",
    "seconds_logprobs": "timeperf/recompute_logp",
    "seconds_update": "timeperf/train_step",
    "seconds_weights": "timeperf/update_weights",
}


class MetricsRecorder:
    """Observer that appends a line to `metrics.jsonl` after each step.

    Parameters
    ----------
    folder
        The run's folder.
    say
        Where the line goes as well, without AReaL's statistics.
    """

    def __init__(self, folder: RunFolder, say: Callable[..., None]):
        self.folder = folder
        self.say = say
        self.start = time.time()
        self.steps = 0
        self._last = self.start
        self._samples = 0
        self._refused: dict[str, int] = {}

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        now = time.time()
        self.steps = step
        record = {"step": step, "version": step - 1, "time": now}
        record |= {"seconds": now - self.start, "step_seconds": now - self._last}
        record |= {name: stats[key] for name, key in PLAIN.items() if key in stats}
        record |= self._counted(stats)
        tokens = stats["cppo/response_tokens"]
        record["tokens_per_second"] = tokens / (now - self._last)
        self._last = now
        self.folder.append(self.folder.metrics, record | {"stats": stats})
        self.say("step", record=record)

    def _counted(self, stats: dict[str, float]) -> dict[str, Any]:
        """What is derived from counts: shares, histogram, running totals."""
        responses = stats["cppo/responses"]
        self._samples += int(responses)
        for key, total in stats.items():
            if REFUSED in key and key.endswith("/total"):
                reason = key.split(REFUSED)[1].removesuffix("/total")
                self._refused[reason] = self._refused.get(reason, 0) + int(total)
        histogram = {
            str(k): int(stats[f"cppo/staleness_tokens/{k:02d}"])
            for k in range(STALENESS_BINS)
            if stats[f"cppo/staleness_tokens/{k:02d}"]
        }
        record: dict[str, Any] = {
            "samples": self._samples,
            "refused": dict(self._refused),
            "staleness_histogram": histogram,
        }
        gated = stats.get(f"{_CPL}/gated_responses")
        if gated is None:
            return record
        selected = stats.get(f"{_CPL}/perception_tokens", 0.0)
        record["cpl_gated_share"] = gated / responses
        record["cpl_selected_per_response"] = selected / gated if gated else 0.0
        tokens = stats.get(f"{_CPL}/gated_tokens", 0.0)
        record["cpl_selected_share"] = selected / tokens if tokens else 0.0
        return record
