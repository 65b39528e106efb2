"""`python -m tests.plan.validate`: the simulation beside runs of many settings.

Trains the demo's model in each of `SETTINGS` (two or three minutes a run on two cores),
one after the other on a machine that should do nothing else, and writes what
`areal-cppo bench predict` says of each. What is in `--out` already is not run again.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from areal_cppo.folder import RunFolder, read_lines

CONFIG = "configs/triangles.yaml"
_ALL = ("heldout.size=0", "actor.optimizer.lr=1e-6")  # lengths stay what they are
_SLICE_SECONDS = 0.05
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Setting:
    """A run to compare; `slow`: its first server runs that share of the time."""

    name: str
    steps: int
    overrides: tuple[str, ...] = ()
    slow: float | None = None


def _batch(size: int) -> tuple[str, ...]:
    return (
        f"train_dataset.batch_size={size}",
        f"rollout.max_concurrent_rollouts={size}",
    )


_TWO = ("rollout.backend=sglang:d2p1t1",)
SETTINGS = (
    Setting("base", 40),
    Setting("slots-16", 40, ("sglang.max_running_requests=16",)),
    Setting("batch-4", 60, _batch(4)),
    Setting("batch-16", 30, _batch(16)),
    Setting("bound-0", 40, ("rollout.max_head_offpolicyness=0",)),
    Setting(
        "bound-4",
        40,
        ("rollout.max_head_offpolicyness=4", "rollout.max_concurrent_rollouts=16"),
    ),
    Setting("long-tail", 40, ("gconfig.temperature=1.8", "gconfig.max_new_tokens=150")),
    Setting("two-servers", 40, _TWO),
    Setting("slow-server", 40, _TWO, slow=0.5),
)


def main() -> int:
    known = [setting.name for setting in SETTINGS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.plan.validate", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", default=",".join(known), help="settings, by comma")
    parser.add_argument("--json", type=Path, help="file for the comparison")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--only: expected of {', '.join(known)}, found {unknown}")
    chosen = [setting for setting in SETTINGS if setting.name in names]
    for setting in chosen:
        folder = args.out / setting.name
        if not finished(folder):
            train(setting, folder)
    compare(chosen, args.out, args.json)
    return 0


def finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    events = read_lines(RunFolder(folder).events)
    return any(event.get("event") == "run_finished" for event in events)


def train(setting: Setting, folder: Path) -> None:
    """Train in a new folder; `sys.exit` where it fails."""
    print(f"{setting.name}: {setting.steps} steps", flush=True)
    command = [sys.executable, "-m", "areal_cppo", "bench", "async"]
    command += ["--config", CONFIG, "--steps", str(setting.steps), "--out", str(folder)]
    process = subprocess.Popen([*command, *_ALL, *setting.overrides])
    if setting.slow is not None:
        slowed = threading.Thread(
            target=slow_down, args=(process, setting.slow), daemon=True
        )
        slowed.start()
    if process.wait():
        sys.exit(f"{setting.name}: expected a run to its end, found exit status above")


def slow_down(process: subprocess.Popen, share: float) -> None:
    """Let the first server of a run work only that share of the time."""
    slices = _SLICE_SECONDS, _SLICE_SECONDS * share / (1 - share)
    while process.poll() is None:
        try:
            servers = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if "".join(child.cmdline()).startswith("sglang::scheduler")
            ]
        except psutil.NoSuchProcess:
            continue
        if len(servers) < 2:
            time.sleep(_LOOK_SECONDS)
            continue
        slowest = min(servers, key=lambda server: server.pid)
        try:
            while process.poll() is None:
                for sign, seconds in zip((signal.SIGSTOP, signal.SIGCONT), slices):
                    slowest.send_signal(sign)
                    time.sleep(seconds)
        except psutil.NoSuchProcess:
            return


def compare(chosen: list[Setting], out: Path, target: Path | None) -> None:
    """Print what `bench predict` says, and write all of it to one file."""
    documents = []
    for setting in chosen:
        command = [sys.executable, "-m", "areal_cppo", "bench", "predict"]
        file = out / f"{setting.name}.json"
        command += [str(out / setting.name), "--json", str(file)]
        subprocess.run(command, check=True)
        documents.append(json.loads(file.read_text(encoding="utf-8")))
    if target is not None:
        runs = [run for document in documents for run in document["runs"]]
        whole = documents[0] | {"runs": runs}
        whole["command"] = f"python -m tests.plan.validate --out DIR --json {target}"
        target.write_text(json.dumps(whole) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
