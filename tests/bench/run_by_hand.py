"""A run's folder worked by hand: three steps of ten seconds, two servers.

Not a test itself. Times are seconds of training; the clock of the controller's tracer
shows 1 s when training begins, and that is unix time 1000.

    step 1   0-10   left out as warm-up
    step 2  10-20   waits 2, log-probs 1, advantages 0.5, update 4, weights 1 (19-20)
    step 3  20-30   waits 1, log-probs 1, advantages 0.5, update 5, weights 1 (29-30)

    server 0   11-15 accepted, 14-19.5 rejected, 21-29 accepted
    server 1   12-22 accepted, 25-26 accepted
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

UNIX, ORIGIN = 1000.0, 1.0  # seconds
SESSIONS = {
    0: [(11, 15, "accepted"), (14, 19.5, "rejected"), (21, 29, "accepted")],
    1: [(12, 22, "accepted"), (25, 26, "accepted")],
}
# waits, log-probs, advantages, update, weights
TIMES = [
    (5.0, 1.0, 0.5, 2.0, 1.0),
    (2.0, 1.0, 0.5, 4.0, 1.0),
    (1.0, 1.0, 0.5, 5.0, 1.0),
]
NAMES = ("rollout", "recompute_logp", "compute_advantage", "train_step")
HISTOGRAMS = [{"0": 200}, {"0": 100, "1": 100}, {"1": 150, "2": 50}]
REFUSED = [{"vision_token": 1}, {"vision_token": 3}, {"vision_token": 4}]


def config(**cluster: Any) -> dict[str, Any]:
    return {
        "cluster": {"n_gpus_per_node": 0} | cluster,
        "rollout": {"backend": "sglang:d2p1t1"},
        "actor": {"backend": "fsdp:d1p1t1"},
        "sglang": {"max_running_requests": 8},
        "perf_tracer": {
            "fileroot": "/nowhere/areal",
            "experiment_name": "e",
            "trial_name": "t",
        },
    }


def record(number: int) -> dict[str, Any]:
    times = TIMES[number - 1]
    stats = {
        f"timeperf/{name}": seconds for name, seconds in zip(NAMES, times, strict=False)
    }
    stats["timeperf/update_weights"] = times[4]
    stats |= {"ppo_actor/n_seqs": 8.0, "ppo_actor/seq_len/avg": 35.0}
    return {
        "step": number,
        "seconds": 10.0 * number,
        "step_seconds": 10.0,
        "samples": 8 * number,
        "response_tokens": 25.0,
        "tokens_per_second": 20.0,
        "staleness_histogram": HISTOGRAMS[number - 1],
        "response_tokens_histogram": {"20.5": 4, "29.5": 4},
        "refused": REFUSED[number - 1],
        "interrupted_responses": number - 1,
        "seconds_rollout": times[0],
        "seconds_update": times[3],
        "seconds_weights": times[4],
        "seconds_perturb": 0.1,
        "seconds_negative_view": 0.2,
        "seconds_positive_view": 0.2,
        "seconds_anchor": 1.2,
        "seconds_backward": 1.6,
        "seconds_optimizer": 0.5,
        "seconds_inside": 4.0,
        "cpl_view_tokens": 70.0,
        "stats": stats,
    }


def write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(each) + "\n" for each in records))


def clock(unix: float, origin: float, offset: float) -> dict[str, Any]:
    said = {"unix_seconds": unix, "offset": offset}
    return {"name": "clock", "ph": "i", "ts": origin * 1e6, "args": said}


def phase(name: str, begin: float, end: float) -> dict[str, Any]:
    """Of the first life."""
    times = {"ts": (begin + ORIGIN) * 1e6, "dur": (end - begin) * 1e6}
    return {"name": f"train.{name}", "ph": "X"} | times


def session(group: int, begin: float, end: float | None, status: str) -> dict[str, Any]:
    """Of the first life."""
    unix = None if end is None else end + UNIX
    span = {"start_ts": begin + UNIX, "end_ts": unix}
    return {
        "task_id": group,
        "status": status,
        "reward_s": 0.5,
        "phases": {"generate": [span]},
    }


def write_run(folder: Path, steps: int = 3, traces: bool = True, **cluster) -> Path:
    """The folder, with so many of its steps."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "metrics.jsonl", [record(n + 1) for n in range(steps)])
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**cluster)))
    weights = [[9.0, 10.0], [19.0, 20.0], [29.0, 30.0]][:steps]
    training = [[10.0 * k + 4, 10.0 * k + 8, "update"] for k in range(steps)]
    timeline = {
        "generation": [[b, e] for spans in SESSIONS.values() for b, e, _ in spans],
        "training": training,
        "weights": weights,
    }
    (folder / "timeline.json").write_text(json.dumps(timeline))
    if not traces:
        return folder
    logs = folder / "areal" / "logs" / "user" / "e" / "t"
    phases = [phase("ppo_update", b, e) for b, e, _ in training]
    phases += [phase("update_weights", b, e) for b, e in weights]
    events = [clock(UNIX, ORIGIN, 0.0), *phases]
    write_lines(logs / "perf_tracer" / "master" / "traces-r0.jsonl", events)
    for worker, spans in SESSIONS.items():
        records = [session(7, *span) for span in spans]
        records.append(session(8, 29.5, None, "pending"))
        file = logs / "session_tracer" / "rollout" / f"sessions-r{worker}.jsonl"
        write_lines(file, records)
    return folder
