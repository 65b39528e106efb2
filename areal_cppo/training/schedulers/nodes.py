"""The nodes of the Slurm job that this process is part of."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from areal.utils.network import gethostip

from areal_cppo.errors import RunError, UserError

# A client without a controller to answer it blocks for ever.
_CLIENT_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """A node's name, as Slurm has it, and the address that others reach it at."""

    name: str
    address: str


def slurm(*command: str) -> str:
    """What a Slurm client prints; `RunError` of one line if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_CLIENT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise RunError(
            f"{command[0]}: expected Slurm's clients on PATH, found no such command; "
            "in a container, mount the host's (docs/slurm.md)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"{command[0]}: no answer within {_CLIENT_SECONDS} s; is slurmctld up?"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        raise RunError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


def allocation(environment: Mapping[str, str]) -> list[Node]:
    """The nodes of this job, in Slurm's order; the first runs the batch script.

    Raises
    ------
    UserError
        This process isn't part of a job.
    """
    names = environment.get("SLURM_JOB_NODELIST")
    if not names or "SLURM_JOB_ID" not in environment:
        raise UserError(
            "scheduler.type: expected allocation inside a Slurm job only, found no "
            "SLURM_JOB_NODELIST; submit with `areal-cppo slurm ... --submit`, or set "
            "scheduler.type=local"
        )
    here = environment.get("SLURMD_NODENAME", "")
    hosts = slurm("scontrol", "show", "hostnames", names).split()
    return [Node(name, _address(name, name == here)) for name in hosts]


def _address(name: str, here: bool) -> str:
    """The IP address of a node.

    Slurm knows the address under which it reaches the node itself. A name that means
    the loopback on the node that asks, as Debian sets it up, is of no use to others.
    """
    shown = slurm("scontrol", "show", "node", name, "--oneliner")
    match = re.search(r"\bNodeAddr=(\S+)", shown)
    known = match.group(1) if match else name
    try:
        found = socket.getaddrinfo(known, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise RunError(
            f"node {name}: its address {known} can't be resolved ({error})"
        ) from error
    # IPv4 where there is both: AReaL's servers listen there by default.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    address = str(found[0][4][0])
    if here and known != address and address.startswith("127."):
        return gethostip()
    return address
