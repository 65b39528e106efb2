"""A real Slurm on this machine, for tests: one controller and a few virtual nodes.

Needs root and Debian's slurm-wlm and munge; neither systemd nor cgroups. All nodes are
this machine: they share its name, address, processes and memory, and claim cores,
memory and GPUs that needn't exist. All its files are in one folder.

Left out: accounting (no sacct), PMIx, containers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

from tests.debian import install_packages

CORES, GPUS, MEMORY_MB = 64, 8, 500_000  # of a node, claimed
URGENT = "urgent"  # the partition whose jobs preempt those of the default one

_PACKAGES = ("slurm-wlm", "munge")
_DAEMONS = ("munged", "slurmctld", "slurmd")
_CLIENT_SECONDS = 60
_START_SECONDS = 180


class SlurmMissing(Exception):
    """Slurm isn't here and can't be installed; says why."""


def install() -> None:
    """Install the packages unless they are there."""
    if all(map(shutil.which, _DAEMONS)):
        return
    install_packages(_PACKAGES, SlurmMissing)
    if not all(map(shutil.which, _DAEMONS)):
        raise SlurmMissing(f"{', '.join(_PACKAGES)} installed, but daemons not found")


class Cluster:
    """Daemons and clients of one cluster; `start` it, and `stop` it.

    Parameters
    ----------
    folder
        For everything it writes; must be reachable by user munge.
    nodes
        How many: n0, n1, ...
    """

    def __init__(self, folder: Path, nodes: int = 2):
        self.folder = folder
        self.nodes = [f"n{i}" for i in range(nodes)]
        self.conf = folder / "slurm.conf"
        self.socket = folder / "munge" / "socket"
        self.environment = os.environ | {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Bring all up and wait until every node can take a job."""
        if os.geteuid() != 0:
            raise SlurmMissing("its daemons are started as root here")
        self._configure()
        self._daemon(
            *("runuser", "-u", "munge", "--", "munged"),
            f"--key-file={self.folder}/munge/key",
            f"--socket={self.socket}",
            f"--pid-file={self.folder}/munge/pid",
            f"--log-file={self.folder}/munge/log",
            f"--seed-file={self.folder}/munge/seed",
        )
        self._daemon("slurmctld", "-c", "-f", str(self.conf))
        for node in self.nodes:
            self.start_node(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        """End every job and daemon."""
        try:
            self.run("scancel", "--user=root")
            self.wait(lambda: not self.run("squeue", "-h", "-o", "%i"), 60, "the jobs")
        except (subprocess.SubprocessError, TimeoutError):
            pass  # the daemons end whatever their jobs do
        mine = [process for process in psutil.process_iter() if self._is_mine(process)]
        for process in mine:
            process.kill()
        psutil.wait_procs(mine, timeout=10)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._daemon("slurmd", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str) -> None:
        """SIGKILL a node's daemon and all that its jobs started there: a power cut."""
        pid = int((self.folder / f"slurmd.{node}.pid").read_text())
        doomed = [psutil.Process(pid)]
        for stepd in self._stepds(node):
            doomed += [stepd, *stepd.children(recursive=True)]
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass

    def processes(self, job_id: str) -> list[psutil.Process]:
        """What is alive of all that a job ever started, daemons aside."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SLURM_JOB_ID") == job_id
                dead = process.status() == psutil.STATUS_ZOMBIE
                here = process.environ().get("SLURM_CONF") == str(self.conf)
                if mine and here and not dead and process.name() != "slurmstepd":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_for_nodes(self) -> None:
        """Wait until all nodes are usable; one that is down is resumed."""

        def usable() -> bool:
            shown = self.run("sinfo", "-h", "-N", "-o", "%N %T")
            states = dict(line.split() for line in shown.splitlines())
            for node, state in states.items():
                if state.startswith(("down", "drain")) and not state.endswith("*"):
                    self.run(
                        *("scontrol", "update", f"nodename={node}", "state=resume")
                    )
            good = ("idle", "mixed", "allocated", "completing")
            return all(states.get(node) in good for node in self.nodes)

        self.wait(usable, _START_SECONDS, "the nodes")

    def run(self, *command: str, **kwargs) -> str:
        """What a Slurm client prints; raises if it fails or doesn't answer."""
        return subprocess.run(
            command,
            env=kwargs.pop("env", self.environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=_CLIENT_SECONDS,
            **kwargs,
        ).stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, by key."""
        shown = self.run("scontrol", "show", "job", job_id, "--oneliner")
        words = (word.partition("=") for word in shown.split())
        return {key: value for key, _, value in words}

    def wait(self, condition, seconds: float, what: str) -> None:
        """Wait until `condition()` holds; it may fail for want of a controller."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except subprocess.SubprocessError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"waited {seconds} s for {what}\n{self.logs()}")

    def logs(self, lines: int = 15) -> str:
        """The end of every daemon's log."""
        return "\n".join(
            f"== {log.name}\n" + "\n".join(log.read_text().splitlines()[-lines:])
            for log in sorted(self.folder.glob("*.log"))
        )

    def _daemon(self, *command: str) -> None:
        subprocess.run(
            command, check=True, env=self.environment, timeout=_START_SECONDS
        )

    def _is_mine(self, process: psutil.Process) -> bool:
        """Whether a process is a daemon of this cluster; all name its folder."""
        try:
            if process.name() == "slurmstepd":
                return any(process in self._stepds(node) for node in self.nodes)
            return process.name() in _DAEMONS and any(
                str(self.folder) in word for word in process.cmdline()
            )
        except psutil.Error:
            return False

    def _stepds(self, node: str) -> list[psutil.Process]:
        """The parents of what jobs run on a node; they write into its daemon's log."""
        log = str(self.folder / f"slurmd.{node}.log")
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "slurmstepd" and log in (
                    entry.path for entry in process.open_files()
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _configure(self) -> None:
        munge = self.folder / "munge"
        for folder in (munge, self.folder / "state", self.folder / "dev"):
            folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        for index in range(GPUS):
            # Slurm wants a character device; a link to this one is good enough.
            (self.folder / "dev" / f"gpu{index}").symlink_to("/dev/null")
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        for path in (self.folder, *self.folder.parents):
            if path.stat().st_uid == 0 and path.stat().st_mode & 0o005 != 0o005:
                path.chmod(path.stat().st_mode | 0o055)
        last = len(self.nodes) - 1
        names = f"n[0-{last}]"
        self.conf.write_text(self._slurm_conf(names))
        self._write(
            "gres.conf",
            "AutoDetect=off",
            f"NodeName={names} Name=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]",
        )
        self._write(
            "cgroup.conf",
            *("CgroupAutomount=no", "ConstrainCores=no", "ConstrainDevices=no"),
            *("ConstrainRAMSpace=no", "ConstrainSwapSpace=no"),
        )

    def _write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def _slurm_conf(self, names: str) -> str:
        host = socket.gethostname().partition(".")[0]
        control, *ports = _free_ports(1 + len(self.nodes))
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": control,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            # By default a requeued job waits two minutes for its credential's end.
            "AuthInfo": f"socket={self.socket},cred_expire=10",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool.%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd.%n.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/slurmd.%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "MpiDefault": "none",
            "ReturnToService": 2,
            "SlurmdParameters": "config_overrides",
            "SlurmdTimeout": 10,  # a silent node is down after this
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 1000,
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
            "JobRequeue": 1,
            "KillWait": 5,
            "GresTypes": "gpu",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for node, port in zip(self.nodes, ports, strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={CORES} Boards=1 SocketsPerBoard=1 CoresPerSocket={CORES} "
                f"ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
            )
        lines += [
            f"PartitionName=usual Nodes={names} Default=YES State=UP PriorityTier=1",
            f"PartitionName={URGENT} Nodes={names} State=UP PriorityTier=10 "
            "PreemptMode=OFF",
        ]
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
