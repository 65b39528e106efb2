"""Run inside a job of two nodes of two GPUs: starts workers, kills one, says what.

    python allocation_driver.py CONFIG FOLDER

Prints one JSON object: of each worker its address, ports and the environment of its
process, then the error that the killed one led to, and the steps that were left after
all had been deleted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from areal_cppo.serving.cpu import enable_in_this_process

SHOWN = ("CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME", "SLURM_PROCID", "PREFIX", "OPTION")


def worker_process(role: str, rank: int) -> psutil.Process:
    """The Python process of a worker of this job; srun's client names it as well."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = process.environ().get("SLURM_JOB_ID") == os.environ["SLURM_JOB_ID"]
        except psutil.Error:
            continue
        python = words and "python" in words[0] and words[1:2] == ["-m"]
        if python and mine and words[2] == "areal_cppo.cluster.worker":
            named = dict(zip(words[3::2], words[4::2], strict=False))
            if (named["--role"], named["--worker-index"]) == (role, str(rank)):
                return process
    raise LookupError(f"{role} {rank}")


def steps() -> list[str]:
    shown = subprocess.run(
        ["squeue", "--steps", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%j"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return sorted(shown.stdout.split())


def main(config_path: str, folder: str) -> None:
    from areal.api import Job

    from areal_cppo.cluster import make_scheduler
    from areal_cppo.cluster.worker import apply_listen_host
    from areal_cppo.config.experiment import load_config
    from areal_cppo.errors import RunError

    config = load_config(
        config_path,
        [
            "scheduler.type=allocation",
            "cluster.n_nodes=2",
            "cluster.n_gpus_per_node=2",
            "actor.backend=fsdp:d2",
            "rollout.backend=sglang:d1t2",
            f"run_dir={folder}",
        ],
    )
    for engine in (config.actor, config.rollout):
        engine.scheduling_spec[0].gpu = 1
    Path(config.cluster.name_resolve.nfs_record_root).mkdir(parents=True, exist_ok=True)
    apply_listen_host(config)
    scheduler = make_scheduler(config)
    result: dict = {"workers": {}, "gpus_per_node": scheduler.n_gpus_per_node}
    roles = (("actor", config.actor, 2), ("rollout", config.rollout, 1))
    for role, engine, replicas in roles:
        scheduler.create_workers(
            Job(
                role=role,
                replicas=replicas,
                tasks=list(engine.scheduling_spec),
                scheduling_strategy=engine.scheduling_strategy,
            )
        )
        for rank, worker in enumerate(scheduler.get_workers(role)):
            environment = worker_process(role, rank).environ()
            result["workers"][worker.id] = {
                "ip": worker.ip,
                "ports": worker.worker_ports,
                "environment": {name: environment.get(name) for name in SHOWN},
            }
    result["steps"] = steps()
    began = time.monotonic()
    worker_process("rollout", 0).kill()
    try:
        time.sleep(60)  # as in a call that takes hours
        result["error"] = None
    except RunError as error:
        result["error"] = str(error)
    result["noticed_after"] = time.monotonic() - began
    scheduler.delete_workers()
    result["left"] = [name for name in steps() if name != "batch"]
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    enable_in_this_process()
    main(*sys.argv[1:])
