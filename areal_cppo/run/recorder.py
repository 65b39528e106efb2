"""Turns AReaL's statistics of a step into a line of `metrics.jsonl`.

Every name of a line is explained in `areal_cppo/report/vocabulary.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

from areal.utils import logging

from areal_cppo.folder import RunFolder
from areal_cppo.rollout.engine import REFUSED
from areal_cppo.rollout.loader import GIVEN_UP
from areal_cppo.rollout.servers.engine import RESENT
from areal_cppo.run.health import RunWatch
from areal_cppo.run.throughput import IDLE, SAMPLES
from areal_cppo.step.batch_stats import LENGTH_BINS, STALENESS_BINS

logger = logging.getLogger("RunWatch")

_UPDATE = "ppo_actor/update"
_CPL = f"{_UPDATE}/cpl"

# Recorded under `cpl/` by `perception_stats.py`: counts over all ranks ...
CPL_COUNTS = (
    "gated_responses",
    "text_only_responses",
    "unchanged_responses",
    "positive_views",
    "negative_views",
    "positive_views_unchanged",
    "negative_views_unchanged",
    "view_sequences",
    "view_tokens",
    "view_patches",
    "gated_tokens",
    "perception_tokens",
    "unselected_tokens",
    "stale_tokens",
    "nonfinite_tokens",
    "skipped_responses",
)
# ... and averages, absent where there is nothing to average.
CPL_AVERAGES = (
    "anchor_entropy",
    "negative_entropy",
    "entropy_gain",
    "loss",
    "positive_divergence",
    "negative_divergence",
    "margin",
    "inverted_margin",
    "selected_anchor_entropy",
    "selected_negative_entropy",
    "selected_gain",
    "unselected_divergence",
)

# Recorded for PAPO and VPPO, each under its name; here -> in metrics.jsonl, after it.
VIEWED = {
    "gated_responses": "responses",
    "text_only_responses": "text_only_responses",
    "unchanged_responses": "unchanged_responses",
    "negative_views": "negative_views",
    "negative_views_unchanged": "negative_views_unchanged",
    "view_tokens": "view_tokens",
    "view_patches": "view_patches",
    "tokens": "tokens",
}
PAPO = (
    "loss",
    "divergence",
    "anchor_entropy",
    "negative_entropy",
    "importance_weight",
    "bounded_tokens",
    "nonfinite_tokens",
    "skipped_responses",
)
VPPO = {
    "dependency": "dependency",
    "kept_dependency": "kept_dependency",
    "filtered_dependency": "filtered_dependency",
    "kept_tokens": "kept_tokens",
    "nonfinite_responses": "nonfinite_responses",
    **{
        f"{name}/{end}": f"{name}_{words}"
        for name in ("response_dependency", "factor")
        for end, words in (("avg", "mean"), ("min", "lowest"), ("max", "highest"))
    },
}

# Name in metrics.jsonl -> AReaL's name. What AReaL did not record is absent.
PLAIN = {
    "reward": "cppo/reward",
    "accuracy": "cppo/correct",
    "response_tokens": "cppo/response_length",
    "samples_per_second": SAMPLES,
    "trainer_idle_share": IDLE,
    "interrupted_responses": "cppo/interrupted_responses",
    "staleness_mean": "cppo/staleness/avg",
    "staleness_max": "cppo/staleness/max",
    "policy_loss": f"{_UPDATE}/actor_loss/avg",
    "policy_entropy": f"{_UPDATE}/entropy/avg",
    "importance_weight": f"{_UPDATE}/importance_weight/avg",
    "behaviour_importance_weight": f"{_UPDATE}/behave_imp_weight/avg",
    "clip_ratio": f"{_UPDATE}/clip_ratio/avg",
    "grad_norm": f"{_UPDATE}/grad_norm",
    "lr": f"{_UPDATE}/lr",
    "cpl_importance_weight": f"{_CPL}/staleness_weight",
    "cpl_importance_weight_squared": f"{_CPL}/staleness_weight_squared",
    **{f"cpl_{name}": f"{_CPL}/{name}" for name in (*CPL_COUNTS, *CPL_AVERAGES)},
    **{f"cpl_gain_p{q}": f"cppo/gain_p{q}" for q in (10, 50, 90)},
    **{
        f"{scope}_{name}": f"{_UPDATE}/{scope}/{key}"
        for scope, own in (("papo", dict(zip(PAPO, PAPO))), ("vppo", VPPO))
        for key, name in (own | VIEWED).items()
    },
    "cpl_skipped_micro_batches": "cppo/skipped_micro_batches",
    "seconds_rollout": "timeperf/rollout",
    "seconds_logprobs": "timeperf/recompute_logp",
    "seconds_reference": "timeperf/ref_logp",
    "seconds_advantages": "timeperf/compute_advantage",
    "seconds_update": "timeperf/train_step",
    "seconds_weights": "timeperf/update_weights",
    "seconds_perturb": "cppo/seconds_perturb",
    "seconds_negative_view": "cppo/seconds_negative_view",
    "seconds_positive_view": "cppo/seconds_positive_view",
}

# Share -> (part, whole), all of them names of metrics.jsonl; 0 where the whole is 0.
SHARES = {
    "cpl_selected_per_response": ("cpl_perception_tokens", "cpl_gated_responses"),
    "cpl_selected_share": ("cpl_perception_tokens", "cpl_gated_tokens"),
    "cpl_stale_dropped_share": ("cpl_stale_tokens", "cpl_perception_tokens"),
}

# The same of other objectives; absent where the whole is.
OTHER_SHARES = {
    "papo_bounded_share": ("papo_bounded_tokens", "papo_tokens"),
    "vppo_kept_share": ("vppo_kept_tokens", "vppo_tokens"),
}

# Rare and grave, so their sum since the start is recorded too, with this ending.
TOTAL = "_total"
RUNNING = (
    "cpl_nonfinite_tokens",
    "cpl_skipped_micro_batches",
    "cpl_skipped_responses",
    "update_skipped",
)


class MetricsRecorder:
    """Observer that appends a line to `metrics.jsonl` after each step.

    Parameters
    ----------
    folder
        The run's folder.
    say
        Where the line goes as well, without AReaL's statistics, and each warning.
    watch
        Looks at each line; what it sees becomes the line's `warnings`.
    """

    def __init__(
        self,
        folder: RunFolder,
        say: Callable[..., None],
        watch: RunWatch | None = None,
    ):
        self.folder = folder
        self.say = say
        self.watch = watch or RunWatch()
        self.start = time.time()
        self.steps = 0
        self._last = self.start
        self._samples = 0
        self._refused: dict[str, int] = {}
        self._totals: dict[str, float] = defaultdict(float)

    def go_on(self, records: Iterable[dict[str, Any]]) -> None:
        """Count on from the records of the steps before; call it just before training.

        `seconds` goes on from the last of them: it leaves out the time between.
        """
        record: dict[str, Any] = {}
        for record in records:
            self.watch.look(record)
        self._last = time.time()
        self.start = self._last - record.get("seconds", 0.0)
        self.steps = record.get("step", 0)
        self._samples = record.get("samples", 0)
        self._refused = dict(record.get("refused", {}))
        for name in RUNNING:
            if name + TOTAL in record:
                self._totals[name] = record[name + TOTAL]

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._last - self.start

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        now = time.time()
        self.steps = step
        record = {"step": step, "version": step - 1, "time": now}
        record |= {"seconds": now - self.start, "step_seconds": now - self._last}
        # JSON has no word for what is not finite (a gradient norm, say): left out.
        stats = {key: value for key, value in stats.items() if isfinite(value)}
        record |= {name: stats[key] for name, key in PLAIN.items() if key in stats}
        record |= self._counted(stats)
        record |= _perception(record, stats["cppo/responses"])
        record |= {
            name: record.get(part, 0.0) / record[whole]
            for name, (part, whole) in OTHER_SHARES.items()
            if record.get(whole)
        }
        record |= self._since_the_start(record)
        tokens = stats["cppo/response_tokens"]
        record["tokens_per_second"] = tokens / (now - self._last)
        self._last = now
        warnings = self.watch.look(record)
        if warnings:
            record["warnings"] = warnings
        self.folder.append(self.folder.metrics, record | {"stats": stats})
        self.say("step", record=record)
        for text in warnings:
            logger.warning("step %d: %s", step, text)
            self.say("note", text=f"warning at step {step}: {text}")

    def _counted(self, stats: dict[str, float]) -> dict[str, Any]:
        """Responses and refusals so far, two histograms, and a lost update."""
        self._samples += int(stats["cppo/responses"])
        for key, total in stats.items():
            if REFUSED in key and key.endswith("/total"):
                reason = key.split(REFUSED)[1].removesuffix("/total")
                self._refused[reason] = self._refused.get(reason, 0) + int(total)
        resent = sum(
            total for key, total in stats.items() if key.endswith(f"{RESENT}/total")
        )
        histogram = {
            str(k): int(stats[f"cppo/staleness_tokens/{k:02d}"])
            for k in range(STALENESS_BINS)
            if stats[f"cppo/staleness_tokens/{k:02d}"]
        }
        record: dict[str, Any] = {
            "samples": self._samples,
            "refused": dict(self._refused),
            "requests_resent": int(resent),
            "problems_given_up": int(stats.get(GIVEN_UP, 0.0)),
            "staleness_histogram": histogram,
            "response_tokens_histogram": _lengths(stats),
        }
        successful = stats.get(f"{_UPDATE}/update_successful")
        if successful is not None:
            record["update_skipped"] = 1.0 - successful
        return record

    def _since_the_start(self, record: dict[str, Any]) -> dict[str, float]:
        """Running totals of what the record has of `RUNNING`."""
        for name in RUNNING:
            if name in record:
                self._totals[name] += record[name]
        return {name + TOTAL: total for name, total in self._totals.items()}


def _lengths(stats: dict[str, float]) -> dict[str, int]:
    """Responses by length, tokens: the middle of each bin that isn't empty."""
    width = stats.get("cppo/length_bin_tokens", 0.0)
    counts = (
        (k, int(stats.get(f"cppo/response_lengths/{k:02d}", 0)))
        for k in range(LENGTH_BINS)
    )
    return {f"{(k + 0.5) * width + 0.5:g}": count for k, count in counts if count}


def _perception(record: dict[str, Any], responses: float) -> dict[str, float]:
    """Shares and effective sample of CPL's tokens; nothing for a step without CPL."""
    if "cpl_gated_responses" not in record:
        return {}
    derived = {"cpl_gated_share": record["cpl_gated_responses"] / responses}
    for name, (part, whole) in SHARES.items():
        count = record.get(whole, 0.0)
        derived[name] = record.get(part, 0.0) / count if count else 0.0
    if "cpl_importance_weight_squared" in record:
        # (sum of w)^2 / sum of w^2 over N tokens is N mean(w)^2 / mean(w^2).
        mean, square = (
            record["cpl_importance_weight"],
            record["cpl_importance_weight_squared"],
        )
        share = mean**2 / square if square else 0.0  # 0: every token was dropped
        derived["cpl_effective_sample_share"] = share
        derived["cpl_effective_sample_size"] = share * record["cpl_perception_tokens"]
    return derived
