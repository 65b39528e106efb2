"""The schedulers' workers on a real Slurm, without a training run.

Not tested: containers, accounting, PMIx, several real machines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from areal_cppo.cli.main import main
from areal_cppo.cluster import jobs, make_scheduler
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import RunError, UserError
from tests.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/triangles.yaml"

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]


def ended(cluster: Cluster, job: str) -> bool:
    return cluster.job(job)["JobState"] not in (
        "PENDING",
        "RUNNING",
        "SIGNALING",
        "COMPLETING",
    )


@pytest.mark.parametrize("partition", ("usual", "nothing-like-it"))
def test_sbatch_takes_the_script_or_says_why(
    slurm_cluster, tmp_path, monkeypatch, capsys, partition
):
    monkeypatch.chdir(tmp_path)
    status = main(
        [
            *("slurm", "--config", str(ROOT / "configs/qwen2_5_vl-3b_geometry3k.yaml")),
            *("--nodes=2", "--submit", f"--partition={partition}", "--time=1-0"),
            *("--setup=exit 2", "actor.backend=fsdp:d8", "rollout.backend=sglang:d8"),
        ]
    )
    said = capsys.readouterr()
    if partition == "usual":
        assert status == 0
        job = said.out.strip()
        shown = slurm_cluster.job(job)
        assert shown["NumNodes"] in ("2", "2-2")  # running, pending
        assert shown["Requeue"] == "1"
        assert shown["TresPerNode"] == "gres:gpu:8"
        slurm_cluster.wait(lambda: ended(slurm_cluster, job), 60, "the job")
        # The user's own line ended it: a mistake, after which nothing is queued again.
        assert slurm_cluster.job(job)["ExitCode"] == "2:0"
        assert slurm_cluster.job(job)["Restarts"] == "0"
    else:
        assert status == 2
        assert "invalid partition" in said.err


def test_steps_on_their_nodes_with_their_gpus_and_a_death_noticed(
    slurm_cluster, tmp_path
):
    driver = f"{sys.executable} {Path(__file__).with_name('allocation_driver.py')}"
    set_by_the_script = {
        "AREAL_CPPO_STEP_PREFIX": "env 'PREFIX=two words'",
        "AREAL_CPPO_SRUN_OPTIONS": "--export=ALL,OPTION=1",
        "PYTHONPATH": str(ROOT),
    }
    job = slurm_cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--gres=gpu:2", "--exclusive"),
        *("--cpus-per-task=4", f"--chdir={ROOT}", f"--output={tmp_path}/out"),
        f"--wrap={driver} {CONFIG} {tmp_path}/run",
        env=slurm_cluster.environment | set_by_the_script,
    ).strip()
    slurm_cluster.wait(lambda: ended(slurm_cluster, job), 600, "the driver")
    lines = (tmp_path / "out").read_text().splitlines()
    results = [line for line in lines if line.startswith("RESULT ")]
    assert results, "\n".join(lines[-40:])
    result = json.loads(results[0].removeprefix("RESULT "))
    workers = result["workers"]
    assert result["gpus_per_node"] == 2
    places = {
        name: [
            worker["environment"][key]
            for key in ("SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "SLURM_PROCID")
        ]
        for name, worker in workers.items()
    }
    assert places == {
        "actor/0": ["n0", "0", "0"],
        "actor/1": ["n0", "1", "1"],
        "rollout/0": ["n1", "0,1", "0"],
    }
    for worker in workers.values():
        assert worker["environment"]["PREFIX"] == "two words"
        assert worker["environment"]["OPTION"] == "1"
    ports = [port for worker in workers.values() for port in worker["ports"]]
    assert len(set(ports)) == 6 and "0" not in ports
    assert {"actor-0", "actor-1", "rollout-0"} <= set(result["steps"])
    assert "worker rollout/0 on node n1 died" in result["error"]
    assert result["noticed_after"] < 30
    assert result["left"] == []


@pytest.fixture
def job_scheduler(slurm_cluster, tmp_path, monkeypatch):
    """Makes AReaL's Slurm scheduler, ours, for the demo's model on CPUs."""
    before = signal.getsignal(signal.SIGUSR2)
    made = []
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def make(**spec):
        config = load_config(
            CONFIG, ["scheduler.type=slurm", f"run_dir={tmp_path}/run"]
        )
        native = {"container_type": "none", "srun_additional_args": "--mpi=none"}
        for name, value in (native | spec).items():
            setattr(config.actor.scheduling_spec[0], name, value)
        root = Path(config.cluster.name_resolve.nfs_record_root)
        root.mkdir(parents=True, exist_ok=True)
        made.append(make_scheduler(config))
        return made[-1], config

    yield make
    for scheduler in made:
        scheduler.delete_workers()
    signal.signal(signal.SIGUSR2, before)


def actor_job(config):
    from areal.api import Job

    return Job(role="actor", replicas=1, tasks=list(config.actor.scheduling_spec))


def test_jobs_take_the_configurations_container_and_environment(job_scheduler):
    scheduler, config = job_scheduler(env_vars={"MINE": "two words"})
    assert scheduler.n_gpus_per_node == 1  # without GPUs: not zero, to divide by
    scheduler.create_workers(actor_job(config))
    (worker,) = scheduler.get_workers("actor")
    listening = [
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.laddr and str(connection.laddr.port) == worker.worker_ports[0]
        if connection.status == psutil.CONN_LISTEN
    ]
    environment = psutil.Process(listening[0]).environ()
    assert environment["MINE"] == "two words"
    job = scheduler._jobs["actor"]
    assert environment["SLURM_JOB_ID"] == str(job)
    scheduler.delete_workers("actor")
    assert not scheduler._jobs


def test_a_job_that_fails_at_once_is_noticed_at_once(job_scheduler):
    from areal.infra.scheduler.exceptions import WorkerFailedError

    scheduler, config = job_scheduler(cmd='bash -c "echo no luck; exit 3"')
    began = time.monotonic()
    scheduler.create_workers(actor_job(config))
    # Either AReaL asks first, or the thread that watches.
    with pytest.raises((WorkerFailedError, RunError), match="no luck"):
        scheduler.get_workers("actor")
    assert time.monotonic() - began < 60  # AReaL alone: 300 s


def test_a_job_ends_when_its_controller_is_gone(
    job_scheduler, slurm_cluster, monkeypatch
):
    monkeypatch.setattr(jobs, "_SILENCE_SECONDS", 2)
    monkeypatch.setattr(jobs, "_LOOK_SECONDS", 1)
    scheduler, config = job_scheduler(cmd="sleep 300 #")
    scheduler._watch.stop()  # as if it were killed
    scheduler.create_workers(actor_job(config))
    job = str(scheduler._jobs["actor"])
    slurm_cluster.wait(lambda: ended(slurm_cluster, job), 60, "the job")
    assert slurm_cluster.job(job)["JobState"] == "CANCELLED"


def test_every_state_of_a_job_is_known(job_scheduler):
    from areal.infra.utils.slurm import STATUS_MAPPING

    job_scheduler()
    manual = {"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "CONFIGURING", "SUSPENDED"}
    assert manual | {"REQUEUED", "STOPPED"} <= set(STATUS_MAPPING)


@pytest.mark.parametrize("kind", ("local", "ray"))
def test_areals_own_schedulers(kind, tmp_path):
    from areal.infra.scheduler.local import LocalScheduler
    from areal.infra.scheduler.ray import RayScheduler

    if kind == "ray" and hasattr(RayScheduler, "_fork_single_worker"):
        pytest.skip("since v2.0.0 AReaL's Ray scheduler takes no cluster without GPUs")
    config = load_config(CONFIG, [f"scheduler.type={kind}", f"run_dir={tmp_path}"])
    Path(config.cluster.name_resolve.nfs_record_root).mkdir(parents=True, exist_ok=True)
    scheduler = make_scheduler(config)
    assert isinstance(scheduler, {"local": LocalScheduler, "ray": RayScheduler}[kind])


def test_outside_a_job_there_is_no_allocation(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    config = load_config(CONFIG, ["scheduler.type=allocation"])
    with pytest.raises(UserError, match="expected allocation inside a Slurm job only"):
        make_scheduler(config)
    config.scheduler.type = "kubernetes"
    with pytest.raises(UserError, match="scheduler.type: expected one of local, alloc"):
        make_scheduler(config)
