"""Effective throughput of a train step, recorded beside AReaL's own statistics.

So it reaches wandb and TensorBoard as well as `metrics.jsonl`. What counts as a sample
and as idle: `areal_cppo.bench.async_figures`, which works the same out over many steps.
"""

from __future__ import annotations

from collections.abc import Mapping

SAMPLES = "cppo/samples_per_second"
TOKENS = "cppo/tokens_per_second"
IDLE = "cppo/trainer_idle_share"


def throughput(stats: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Rates and the idle share of a step that took `seconds`, under names of AReaL's.

    What `stats` does not have is left out.
    """
    found = {}
    for name, count in ((SAMPLES, "cppo/responses"), (TOKENS, "cppo/response_tokens")):
        if count in stats:
            found[name] = stats[count] / seconds
    waited = stats.get("timeperf/rollout")
    if waited is not None:
        found[IDLE] = min(1.0, waited / seconds)
    return found
