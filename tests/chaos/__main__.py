"""`python -m tests.chaos`: faults at random moments in real runs, and what they cost.

Sessions: servers (the run goes on), workers (it is started again by itself), command
(the same command is given again), disk, slurm, data. Each is one run of the demo's
model with two generation servers (under Slurm one); each start takes a minute or two
on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.chaos.data_session import DATA_FAULTS, DataSession
from tests.chaos.faults import FAULTS
from tests.chaos.session import BY_SESSION, DiskSession, Session
from tests.chaos.slurm_session import SLURM_FAULTS, SlurmSession

_MOST = 12  # faults in one run
DISK_FAULTS = ("disk-full",)


def plan(
    names: list[str], rounds: int, together: bool, rng: random.Random
) -> list[tuple]:
    """Sessions as (name, class, faults); the order within one is drawn."""
    sessions = []
    if together:
        return [("together-1", Session, [n for n in names if n in FAULTS] * rounds)]
    groups = [(name, Session, kinds) for name, kinds in BY_SESSION.items()]
    groups.append(("disk", DiskSession, DISK_FAULTS))
    groups.append(("slurm", SlurmSession, SLURM_FAULTS))
    for name, session, kinds in groups:
        faults = [kind for kind in kinds if kind in names] * rounds
        rng.shuffle(faults)
        for start in range(0, len(faults), _MOST):
            part = faults[start : start + _MOST]
            sessions.append((f"{name}-{start // _MOST + 1}", session, part))
    data = [kind for kind in DATA_FAULTS if kind in names]
    if data:
        sessions += [(f"data-{i + 1}", DataSession, data) for i in range(rounds)]
    return sessions


def main() -> int:
    known = [*FAULTS, *DISK_FAULTS, *SLURM_FAULTS, *DATA_FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--faults", default=",".join(known), help="kinds, by comma; all by default"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of each kind")
    parser.add_argument(
        "--together", action="store_true", help="all in one run, in the order given"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--out", type=Path, help="folder for the runs; must be new")
    args = parser.parse_args()
    names = args.faults.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--faults: expected of {', '.join(known)}, found {unknown}")
    out = args.out or Path(tempfile.mkdtemp(prefix="areal-cppo-chaos-"))
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end what was started
    began = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - began:7.1f} s  {text}", flush=True)

    result = {"seed": args.seed, "rounds": args.rounds, "machine": machine()}
    result |= {"sessions": [], "faults": []}
    rng = random.Random(args.seed)
    for name, session, faults in plan(names, args.rounds, args.together, rng):
        seed = rng.randrange(2**32)
        started = time.time()
        records = session(out / name, random.Random(seed), say).run(faults)
        result["faults"] += [r.to_json() | {"session": name} for r in records]
        seconds = round(time.time() - started, 1)
        about = {"name": name, "seed": seed, "faults": faults, "seconds": seconds}
        result["sessions"].append(about)
        if args.json:  # after each: the suite takes an hour
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    failed = [fault for fault in result["faults"] if not fault["ok"]]
    for fault in failed:
        say(f"NOT OK: {fault['kind']} ({fault['session']}): {fault['problems']}")
    say(f"{len(result['faults'])} faults, {len(failed)} not as they should be; {out}")
    return 1 if failed else 0


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, Python {python}"


if __name__ == "__main__":
    sys.exit(main())
