"""Rates of a finished run, from the files in its folder.

`rates.json` there is used as it is: `bench async` measures rates in a run of its own.
Any other run holds less, and this is what is made of it:

- lengths: how long each response was under way (`timeline.json`), scaled to the mean
  length in `metrics.jsonl`. Responses beside each other run at about the same pace.
- decoding: tokens over the seconds in which anything was generated, at the mean number
  of requests under way. One point of the curve: below it linear, above it constant.
  Prefill, images and rewards are in it.
- trainer: seconds over tokens. What a step costs whatever its size is in the tokens'
  price; how ranks slow each other down is not known.
- weights: the seconds of an update, and half of the half second in which AReaL's client
  asks whether it may go on.

The first step, which warms everything up, is left out where there are others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Empirical, Fixed
from areal_cppo.plan.rates import (
    RUN_RATES,
    Rates,
    ServerRates,
    TrainerRates,
    WeightRates,
    read_rates,
)
from areal_cppo.report.runs import Run, load_run
from areal_cppo.report.timeline import busy_seconds

_POLL_SECONDS = 0.5  # AReaL's `agenerate` sleeps that long while paused
# What the trainer computes in a step; the names of AReaL's timers.
_TRAINING = ("ref_logp", "recompute_logp", "compute_advantage", "train_step")
_AT_ONCE = 1e12  # tokens/s: prefill is in the decode rate


@dataclass(frozen=True)
class RunSetting:
    """What the run was configured with."""

    batch: int
    group: int
    staleness: int
    concurrent: int | None
    servers: int
    ranks: int


def read_run(path: str | Path) -> tuple[Rates, RunSetting]:
    """The rates of a run and how it was set.

    Raises
    ------
    UserError
        It is no run's folder, or too little was recorded in it.
    """
    folder = Path(path)
    try:
        run = load_run(folder)
    except ValueError as error:
        raise UserError(f"--run: {error}") from error
    setting, server, rank = _setting(run, folder)
    if (folder / RUN_RATES).is_file():
        return read_rates(folder / RUN_RATES), setting
    return _derive(run, folder, setting, server, rank), setting


def _setting(run: Run, folder: Path) -> tuple[RunSetting, int, int]:
    """How it was set; GPUs of a server and of a rank."""
    config = run.config
    try:
        rollout = config["rollout"]
        servers, server = _parallel(rollout["backend"])
        ranks, rank = _parallel(config["actor"]["backend"])
        setting = RunSetting(
            batch=int(config["train_dataset"]["batch_size"]),
            group=int(config["gconfig"]["n_samples"]),
            staleness=int(rollout["max_head_offpolicyness"]),
            concurrent=rollout.get("max_concurrent_rollouts"),
            servers=servers,
            ranks=ranks,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--run: expected config.yaml of a run in {folder} with rollout, actor, "
            f"train_dataset and gconfig, found none of {error}; name another run, or "
            "give --rates"
        ) from error
    return setting, server, rank


def _parallel(backend: str) -> tuple[int, int]:
    """Data-parallel size and GPUs of one copy, of AReaL's `fsdp:d4p1t2`."""
    sizes = dict(re.findall(r"([dptc])(\d+)", backend.partition(":")[2]))
    copies = int(sizes.get("d", 1))
    one = int(sizes.get("p", 1)) * int(sizes.get("t", 1)) * int(sizes.get("c", 1))
    return copies, one


def _derive(
    run: Run, folder: Path, setting: RunSetting, server: int, rank: int
) -> Rates:
    steps = run.metrics[1:] or run.metrics
    spans = [(start, end) for start, end, *_ in run.timeline.generation if end > start]
    if not steps or not spans:
        raise UserError(
            f"--run: expected a run with train steps and a time line in {folder}, "
            f"found {len(run.metrics)} steps and {len(spans)} responses; let it train "
            "to its end with perf_tracer on, or give --rates"
        )
    durations = [end - start for start, end in spans]
    response = mean(_figure(step, "response_tokens", folder) for step in steps)
    prompt = mean(
        _figure(step.get("stats", {}), "ppo_actor/prompt_len/avg", folder)
        for step in steps
    )
    limit = int(run.config["gconfig"].get("max_new_tokens", 0)) or None
    scale = response / mean(durations)
    lengths = [max(1, round(duration * scale)) for duration in durations]
    busy = busy_seconds(spans)
    running = max(1.0, sum(durations) / busy / setting.servers)
    samples = setting.batch * setting.group
    seconds = median(_training_seconds(step, folder) for step in steps)
    slots = (run.config.get("sglang") or {}).get("max_running_requests")
    return Rates(
        server=ServerRates(
            gpus=server,
            slots=int(slots or max(1, round(running))),
            decode=((running, response * len(spans) / busy / setting.servers),),
            prefill_tokens_per_second=_AT_ONCE,
            request_seconds=0.0,
        ),
        trainer=TrainerRates(
            gpus=rank,
            step_seconds=0.0,
            token_seconds=seconds * setting.ranks / (samples * (prompt + response)),
            sync_seconds=0.0,
        ),
        weights=WeightRates(
            median(_figure(step, "seconds_weights", folder) for step in steps),
            _POLL_SECONDS / 2,
        ),
        reward_seconds=0.0,
        prompt_tokens=Fixed(max(1, round(prompt))),
        response_tokens=Empirical(
            tuple(min(length, limit or length) for length in lengths)
        ),
        measured={
            "command": f"areal-cppo plan --run {folder}",
            "machine": "the run's",
            "date": "the run's",
            "how": "from the run's files; see areal_cppo/plan/from_run.py",
        },
    )


def _training_seconds(step: dict[str, Any], folder: Path) -> float:
    stats = step.get("stats", {})
    times = [stats.get(f"timeperf/{name}") for name in _TRAINING]
    known = [time for time in times if isinstance(time, int | float)]
    return sum(known) if known else _figure(step, "seconds_update", folder)


def _figure(record: dict[str, Any], key: str, folder: Path) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise UserError(
            f"--run: expected the number {key} in every line of "
            f"{folder / 'metrics.jsonl'}, found {value!r}; give --rates"
        )
    return float(value)
