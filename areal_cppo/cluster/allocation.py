"""AReaL's local scheduler over the nodes of one Slurm job: a job step for each worker.

The controller runs on the job's first node and starts every worker with `srun` on the
node that the layout gives its role. Deviations from `LocalScheduler`:

1. A worker's command begins with srun (`_prepare_worker_specs`), and a small launcher
   on the node picks its GPUs.
2. Address and ports are chosen where the worker runs. It takes a port by itself, says
   so through AReaL's name service, and is asked for others (`_configure_worker`).
3. A worker that dies ends the run at once, whatever the controller waits for.
4. Steps that outlive their srun are cancelled, at the end and at the next start.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import requests
from areal.api import Job
from areal.api.cli_args import SchedulingSpec, SchedulingStrategyType
from areal.infra.scheduler.local import LocalScheduler, WorkerInfo
from areal.utils import name_resolve, names
from areal.utils.network import format_hostport, split_hostport
from typing_extensions import override

from areal_cppo.cluster.layout import Layout, Place, make_layout
from areal_cppo.cluster.slurm import DeathWatch, job_nodes, slurm
from areal_cppo.cluster.worker import StartsOwnWorkers
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import RunError, UserError

# Set by the submission script.
GENERATION_NODES = "AREAL_CPPO_GENERATION_NODES"
SRUN_OPTIONS = "AREAL_CPPO_SRUN_OPTIONS"  # more of srun's, e.g. those of pyxis
STEP_PREFIX = "AREAL_CPPO_STEP_PREFIX"  # before a worker's command, e.g. apptainer exec

_LAUNCHER = "areal_cppo.cluster.slurm"
# Importing torch, areal and sglang from a busy network disk takes minutes.
_START_SECONDS = 1200.0
_WATCH_SECONDS = 1.0
_REQUEST_SECONDS = 30.0
_LAST_LINES = 5
_CANCEL_SECONDS = 60.0


class AllocationScheduler(StartsOwnWorkers, LocalScheduler):
    """Starts workers as steps of the Slurm job that this process is part of.

    Parameters
    ----------
    config
        The experiment.
    layout
        Who goes where.
    nodes
        Names of the job's nodes, as many as the layout has.
    environment
        Of this process, as the job's script set it up.
    """

    def __init__(
        self,
        config: CPPOConfig,
        layout: Layout,
        nodes: list[str],
        environment: Mapping[str, str],
    ):
        self.layout = layout
        self.nodes = nodes
        self._environment = environment
        self._leaving: set[str] = set()  # ids of workers that are being ended
        super().__init__(gpu_devices=[0], exp_config=config)
        # A requeued job writes beside the logs of its earlier attempts, not into them.
        attempt = environment.get("SLURM_RESTART_COUNT", "0")
        self.log_dir = self.log_dir / f"attempt-{attempt}"
        self.log_dir.mkdir(parents=True, exist_ok=True)
        # Of a controller that was killed in the same job: they hold GPUs and ports.
        self._cancel_steps(
            {
                _step_name(role, rank)
                for role, places in layout.places.items()
                for rank in range(len(places))
            }
        )
        self._watch = DeathWatch(self._find_dead, _WATCH_SECONDS)
        self._watch.start()

    @classmethod
    def from_environment(cls, config: CPPOConfig) -> AllocationScheduler:
        """The scheduler of the job that this process is part of.

        Raises
        ------
        UserError
            There is no job, or its nodes aren't what the configuration needs.
        """
        nodes = job_nodes(os.environ)
        generating = os.environ.get(GENERATION_NODES)
        layout = make_layout(
            config, len(nodes), int(generating) if generating else None
        )
        return cls(config, layout, nodes, os.environ)

    @property
    @override
    def n_gpus_per_node(self) -> int:
        return self.layout.gpus_per_node

    @override
    def create_workers(self, job: Job, *args, **kwargs) -> list[str]:
        strategy = SchedulingStrategyType(job.scheduling_strategy.type)
        placed = len(self.layout.places.get(job.role, ()))
        alone = strategy == SchedulingStrategyType.separation
        if alone and placed != job.replicas:
            raise UserError(
                f"scheduler.type: expected the roles actor, ref and rollout with "
                f"allocation, found {job.replicas} worker(s) of {job.role!r} and "
                f"{placed} place(s) for them; use scheduler.type=slurm, or colocate it"
            )
        return super().create_workers(job, *args, **kwargs)

    @override
    def _prepare_worker_specs(
        self, role: str, num_workers: int, schedulings: list[SchedulingSpec] | None
    ) -> list[SchedulingSpec]:
        specs = super()._prepare_worker_specs(role, num_workers, schedulings)
        places = self.layout.places.get(role)
        if places is None:  # colocated
            return specs
        return [
            replace(spec, cmd=shlex.join(self._command(role, rank, place, spec.cmd)))
            for rank, (spec, place) in enumerate(zip(specs, places, strict=True))
        ]

    def _command(self, role: str, rank: int, place: Place, worker: str) -> list[str]:
        """The whole command of a worker, but for what AReaL adds at its end."""
        environment = self._environment
        options = [
            f"--job-name={_step_name(role, rank)}",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={self.nodes[place.node]}",
            # Steps share the node: without it the second would wait for the first.
            "--overlap",
            "--kill-on-bad-exit=1",
            "--export=ALL",
            "--input=none",
            "--unbuffered",
            "--mpi=none",
        ]
        if self.layout.gpus_per_node:
            options.append(f"--gres=gpu:{self.layout.gpus_per_node}")
        cores = environment.get("SLURM_CPUS_PER_TASK")
        if cores:  # all that the job has on a node; --exact alone would give one
            options += ["--exact", f"--cpus-per-task={cores}"]
        python, *arguments = shlex.split(worker)
        if os.path.basename(python).startswith("python"):
            python = sys.executable
        return [
            "srun",
            *options,
            *shlex.split(environment.get(SRUN_OPTIONS, "")),
            *shlex.split(environment.get(STEP_PREFIX, "")),
            *(sys.executable, "-m", _LAUNCHER, "--rank", str(rank)),
            *("--gpus", ",".join(map(str, place.gpus)), "--"),
            *(python, *arguments),
        ]

    @override
    def _allocate_gpus(self, num_gpus: int) -> list[int]:
        return []  # the launcher picks them on the node

    @override
    def _allocate_ports(self, count: int) -> list[int]:
        return [0] * count  # the worker picks them on its node

    @override
    def _configure_worker(self, worker_info: WorkerInfo, worker_rank: int) -> None:
        if worker_info.process is not None:
            self._find_worker(worker_info, worker_rank)
        super()._configure_worker(worker_info, worker_rank)

    def _find_worker(self, info: WorkerInfo, rank: int) -> None:
        """Wait until a worker is up; write its address and ports into `info`."""
        worker = info.worker
        key = names.worker_discovery(
            self.experiment_name, self.trial_name, info.role, str(rank)
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                worker.ip, port = split_hostport(name_resolve.get(key))
            except name_resolve.NameEntryNotFoundError:
                port = 0
            if port:
                wanted = len(worker.worker_ports)
                worker.worker_ports = [str(port)] + ["0"] * (wanted - 1)
                if self._is_worker_ready(info):
                    break
            if info.process.poll() is not None:
                raise RunError(self._obituary(info))
            if time.monotonic() > deadline:
                raise RunError(
                    f"worker {worker.id} did not start within {_START_SECONDS:.0f} s; "
                    f"its log: {info.log_file}"
                )
            time.sleep(self.health_check_interval)
        if wanted > 1:
            reply = requests.post(
                f"http://{format_hostport(worker.ip, port)}/alloc_ports",
                json={"count": wanted - 1},
                timeout=_REQUEST_SECONDS,
            )
            reply.raise_for_status()
            worker.worker_ports[1:] = [str(each) for each in reply.json()["ports"]]

    @override
    async def _fork_single_worker(
        self, session, role, idx, target_wi, target_role, command=None
    ):
        info = await super()._fork_single_worker(
            session, role, idx, target_wi, target_role, command
        )
        worker = info.worker
        more = len(worker.worker_ports) - 1
        if more:  # AReaL took them from this machine: zeros
            guard = format_hostport(worker.ip, int(worker.worker_ports[0]))
            async with session.post(
                f"http://{guard}/alloc_ports", json={"count": more}
            ) as reply:
                reply.raise_for_status()
                ports = (await reply.json())["ports"]
            worker.worker_ports[1:] = [str(port) for port in ports]
        return info

    @override
    def _cleanup_workers(self, workers: list[WorkerInfo]) -> None:
        mine = [info for info in workers if info.process is not None]
        self._leaving.update(info.worker.id for info in mine)
        super()._cleanup_workers(workers)
        self._cancel_steps({_step_name(*info.worker.id.split("/")) for info in mine})

    def _cancel_steps(self, step_names: set[str]) -> None:
        """Cancel what a killed srun left behind, and wait for its end."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        while time.monotonic() < deadline:
            steps = self._steps(step_names)
            if not steps:
                return
            with suppress(RunError):  # as when they end by themselves meanwhile
                slurm("scancel", "--quiet", *steps)
            time.sleep(self.health_check_interval)

    def _steps(self, step_names: set[str]) -> list[str]:
        """Ids of the steps of this job that have one of these names."""
        job = self._environment["SLURM_JOB_ID"]
        try:
            shown = slurm("squeue", "--steps", "-h", f"--jobs={job}", "-o", "%i %j")
        except RunError:  # no controller to ask: the job's end ends its steps
            return []
        rows = [line.split(maxsplit=1) for line in shown.splitlines()]
        return [step for step, *name in rows if name and name[0] in step_names]

    @override
    def delete_workers(self, role: str | None = None, reverse_order: bool = False):
        if role is None:
            self._watch.stop()
        super().delete_workers(role, reverse_order)

    def _find_dead(self) -> str | None:
        for workers in list(self._workers.values()):
            for info in list(workers):
                gone = info.process is not None and info.process.poll() is not None
                if gone and info.worker.id not in self._leaving:
                    return self._obituary(info)
        return None

    def _obituary(self, info: WorkerInfo) -> str:
        role, rank = info.worker.id.split("/")
        node = self.nodes[self.layout.places[role][int(rank)].node]
        last = " ".join(self._read_log_tail(info.log_file, _LAST_LINES).split())[-200:]
        return (
            f"worker {info.worker.id} on node {node} died: expected its step to last "
            f"as long as the run; finished steps are kept, its log {info.log_file} "
            f"ends: {last or '(empty)'}"
        )


def _step_name(role: str, rank: int | str) -> str:
    return f"{role}-{rank}"
