"""Turns AReaL's statistics of a step into a line of `metrics.jsonl`.

What is recorded of a step is declared where it is computed (`areal_cppo.metrics`); here
is what AReaL records by itself, and what only the controller knows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from areal.utils import logging

from areal_cppo.folder import RunFolder
from areal_cppo.metrics import UPDATE, Metric, declared
from areal_cppo.rollout.ledger import GIVEN_UP
from areal_cppo.rollout.requests import REFUSED, RESENT
from areal_cppo.run.health import RunWatch
from areal_cppo.step.metrics import LENGTH_BINS, STALENESS_BINS

logger = logging.getLogger("RunWatch")

SAMPLES = "cppo/samples_per_second"
TOKENS = "cppo/tokens_per_second"
IDLE = "cppo/trainer_idle_share"

METRICS = (
    Metric(
        "step",
        "Step",
        "",
        "Training step, from 1.",
    ),
    Metric(
        "version",
        "Policy version",
        "",
        "The policy's version when the step began: updates made before it.",
    ),
    Metric(
        "time",
        "Clock",
        "s",
        "Unix time at the end of the step.",
    ),
    Metric(
        "seconds",
        "Time",
        "s",
        "Wall time since training began.",
    ),
    Metric(
        "step_seconds",
        "Step time",
        "s",
        "Wall time of this step alone.",
    ),
    Metric(
        "samples",
        "Responses",
        "",
        "Responses trained on since the start.",
    ),
    Metric(
        "refused",
        "Refused responses",
        "responses",
        "Responses unfit to train on since the start, by reason; a rise that does not "
        "level off means that data or model is at fault.",
    ),
    Metric(
        "requests_resent",
        "Requests sent again",
        "",
        "Requests of this step that a generation server failed to answer and that were "
        "sent to another.",
    ),
    Metric(
        "problems_given_up",
        "Problems given up",
        "",
        "Problems whose group failed groups.attempts times, since the start: they are "
        "not trained on in that epoch.",
    ),
    Metric(
        "warnings",
        "Warnings",
        "",
        "What the run's watch has seen at this step, in words; absent where it has "
        "seen nothing.",
    ),
    Metric(
        "stats",
        "AReaL's statistics",
        "",
        "All that AReaL itself recorded of the step, under AReaL's own names.",
    ),
    Metric(
        "tokens_per_second",
        "Generation rate",
        "tokens/s",
        "Response tokens trained on per second of the step's wall time.",
    ),
    Metric(
        "response_tokens_histogram",
        "Response length, histogram",
        "responses",
        "Responses of the step by length: a bin is a sixteenth of actor.max_new_tokens "
        "and named by its middle, in tokens; the last one holds all beyond it too.",
    ),
    Metric(
        "samples_per_second",
        "Effective samples",
        "responses/s",
        "Responses trained on per second of the step's wall time; those thrown away "
        "don't count.",
        key=SAMPLES,
    ),
    Metric(
        "trainer_idle_share",
        "Trainer idle",
        "share",
        "Share of the step's wall time in which the trainer waited for responses; near "
        "0 when generation keeps up, large when it is the bottleneck.",
        key=IDLE,
    ),
    Metric(
        "policy_loss",
        "Policy loss",
        "",
        "The clipped, decoupled GRPO loss; its level says little, its stability much.",
        key=f"{UPDATE}actor_loss/avg",
    ),
    Metric(
        "policy_entropy",
        "Policy entropy",
        "nats",
        "Mean entropy of the policy's token distribution; a fall to 0 means it no "
        "longer explores.",
        key=f"{UPDATE}entropy/avg",
    ),
    Metric(
        "importance_weight",
        "Importance weight",
        "",
        "Mean probability ratio of the current to the proximal policy; it stays near 1 "
        "while updates are small.",
        key=f"{UPDATE}importance_weight/avg",
    ),
    Metric(
        "behaviour_importance_weight",
        "Behaviour weight",
        "",
        "Mean probability ratio of the proximal to the behaviour policy; far from 1 "
        "means too stale data, or that generation and training disagree.",
        key=f"{UPDATE}behave_imp_weight/avg",
    ),
    Metric(
        "clip_ratio",
        "Clipped tokens",
        "share",
        "Share of response tokens whose policy loss was clipped; a large share means "
        "that updates are too large.",
        key=f"{UPDATE}clip_ratio/avg",
    ),
    Metric(
        "grad_norm",
        "Gradient norm",
        "",
        "Length of the whole gradient before clipping; sudden jumps are a bad sign.",
        key=f"{UPDATE}grad_norm",
    ),
    Metric(
        "lr",
        "Learning rate",
        "",
        "The optimiser's step size.",
        key=f"{UPDATE}lr",
    ),
    Metric(
        "update_skipped",
        "Update skipped",
        "share",
        "Share of the step's updates that were skipped because the gradient's norm was "
        "not finite; with one update a step 0 or 1, and always 0 in a healthy run.",
    ),
    Metric(
        "update_skipped_total",
        "Updates skipped",
        "steps",
        "The same, summed since the start.",
        sums="update_skipped",
    ),
    Metric(
        "staleness_histogram",
        "Staleness, histogram",
        "tokens",
        "Response tokens of the step by staleness in versions; the last bin, 15, holds "
        "all beyond it too.",
    ),
    Metric(
        "seconds_rollout",
        "Rollout wait",
        "s",
        "Time of the step that the trainer waited for responses; near 0 when "
        "generation keeps up.",
        key="timeperf/rollout",
    ),
    Metric(
        "seconds_logprobs",
        "Log-probs",
        "s",
        "Time of the step for the proximal policy's log-probabilities; absent where "
        "the update's own forward pass gives them (actor.speed.reuse_proximal).",
        key="timeperf/recompute_logp",
    ),
    Metric(
        "seconds_reference",
        "Reference log-probs",
        "s",
        "Time of the step for the reference policy's log-probabilities; absent without "
        "one.",
        key="timeperf/ref_logp",
    ),
    Metric(
        "seconds_advantages",
        "Advantages",
        "s",
        "Time of the step to hand the batch to the trainer and compute advantages.",
        key="timeperf/compute_advantage",
    ),
    Metric(
        "seconds_update",
        "Update",
        "s",
        "Time of the step for the views, the losses and the optimiser.",
        key="timeperf/train_step",
    ),
    Metric(
        "seconds_weights",
        "Weights",
        "s",
        "Time of the step to hand new weights to generation.",
        key="timeperf/update_weights",
    ),
)


def throughput(stats: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Rates and the idle share of a step that took `seconds`, under names of AReaL's.

    Recorded beside AReaL's own statistics, so that they reach wandb and TensorBoard as
    well. What counts as a sample and as idle: `areal_cppo.bench.async_figures`, which
    works the same out over many steps. What `stats` does not have is left out.
    """
    found = {}
    for name, count in ((SAMPLES, "cppo/responses"), (TOKENS, "cppo/response_tokens")):
        if count in stats:
            found[name] = stats[count] / seconds
    waited = stats.get("timeperf/rollout")
    if waited is not None:
        found[IDLE] = min(1.0, waited / seconds)
    return found


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
        self._metrics = declared().values()
        self._totals: dict[str, float] = {}
        meanings = {metric.name: metric.meaning for metric in self._metrics}
        folder.meanings.write_text(json.dumps(meanings, indent=1), encoding="utf-8")

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
        sums = (metric.name for metric in self._metrics if metric.sums)
        self._totals = {name: record[name] for name in sums if name in record}

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
        record |= {m.name: stats[m.key] for m in self._metrics if m.key in stats}
        record |= self._counted(stats)
        for metric in self._metrics:
            value = metric.derive(record, stats) if metric.derive else None
            if value is not None:
                record[metric.name] = value
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
        successful = stats.get(f"{UPDATE}update_successful")
        if successful is not None:
            record["update_skipped"] = 1.0 - successful
        return record

    def _since_the_start(self, record: dict[str, Any]) -> dict[str, float]:
        """Totals of what is rare and grave, from the first step on that has it."""
        for metric in self._metrics:
            if metric.sums in record:
                before = self._totals.get(metric.name, 0.0)
                self._totals[metric.name] = before + record[metric.sums]
        return self._totals


def _lengths(stats: dict[str, float]) -> dict[str, int]:
    """Responses by length, tokens: the middle of each bin that isn't empty."""
    width = stats.get("cppo/length_bin_tokens", 0.0)
    counts = (
        (k, int(stats.get(f"cppo/response_lengths/{k:02d}", 0)))
        for k in range(LENGTH_BINS)
    )
    return {f"{(k + 0.5) * width + 0.5:g}": count for k, count in counts if count}
