"""Turns AReaL's statistics of a step into a line of `metrics.jsonl`.

What is recorded of a step is declared where it is computed (`areal_cppo.metrics`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from areal.utils import logging

from areal_cppo.folder import RunFolder
from areal_cppo.metrics import PARTS, UPDATE, declared
from areal_cppo.rollout.ledger import GIVEN_UP
from areal_cppo.rollout.refusals import REFUSED
from areal_cppo.rollout.requests import RESENT
from areal_cppo.run.health import RunWatch
from areal_cppo.run.metrics import IDLE, SAMPLES, TOKENS, part_metric
from areal_cppo.step.metrics import LENGTH_BINS, STALENESS_BINS

logger = logging.getLogger("RunWatch")


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
    ends
        Whether the run ends with a step; then the watch says what a short run shows.
    """

    def __init__(
        self,
        folder: RunFolder,
        say: Callable[..., None],
        watch: RunWatch | None = None,
        ends: Callable[[int], bool] = lambda step: False,
    ):
        self.folder = folder
        self.say = say
        self.watch, self.ends = watch or RunWatch(), ends
        self.start = time.time()
        self.steps = 0
        self._last = self.start
        self._samples = 0
        self._refused: dict[str, int] = {}
        self._metrics = list(declared().values())
        self._totals: dict[str, float] = {}
        self._write_meanings()

    def _write_meanings(self) -> None:
        meanings = {metric.name: metric.meaning for metric in self._metrics}
        text = json.dumps(meanings, indent=1)
        self.folder.meanings.write_text(text, encoding="utf-8")

    def _meet_parts(self, stats: Mapping[str, float]) -> None:
        """A reward function of the user's may return parts of any name."""
        known = {metric.key for metric in self._metrics}
        start = f"cppo/{PARTS}"
        new = {key for key in stats.keys() - known if key.startswith(start)}
        new = {key for key in new if not key.endswith("__count")}
        if new:
            self._metrics += [part_metric(k.removeprefix(start)) for k in sorted(new)]
            self._write_meanings()

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
        self._meet_parts(stats)
        record |= {m.name: stats[m.key] for m in self._metrics if m.key in stats}
        record |= self._counted(stats)
        for metric in self._metrics:
            value = metric.derive(record, stats) if metric.derive else None
            if value is not None:
                record[metric.name] = value
        record |= self._since_the_start(record)
        tokens = stats["cppo/response_tokens"]
        training = now - self._last - record.get("validation_seconds", 0.0)
        record["tokens_per_second"] = tokens / training
        self._last = now
        warnings = self.watch.look(record, last=self.ends(step))
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
