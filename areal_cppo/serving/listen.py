"""Where the processes of a run listen: on loopback, or on one address of the node.

AReaL's workers listen on every address of their machine, and its servers on what
`gethostip` finds; torch's TCPStore always listens on every address. Here each process
of a run learns from the environment where it may listen, and is narrowed to that:

| what | how |
| --- | --- |
| AReaL's RPC workers | started through `areal_cppo.cluster.worker` |
| AReaL's callback server, SGLang's HTTP | `gethostip` answers the address |
| AReaL's choice of ports | drawn by chance: runs of one seed would draw the same |
| torch's TCPStore | is handed a socket that is bound to the address |
| gloo and NCCL | GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, unless the user set them |

`docs/security.md` says who can reach what is left.
"""

from __future__ import annotations

import ipaddress
import os
import socket

from areal_cppo.errors import UserError
from areal_cppo.patches import areal as patch_areal
from areal_cppo.patches import torch as patch_torch
from areal_cppo.patches.upstream import original

# The choice of a run, inherited by every process of it.
LISTEN_VARIABLE = "AREAL_CPPO_LISTEN"
LOOPBACK = "loopback"
NODE = "node"
_LOOPBACK_ADDRESS = "127.0.0.1"


def listen_address(choice: str | None = None) -> str:
    """The IP address on which this process may listen.

    Parameters
    ----------
    choice
        `loopback`; `node`, the address AReaL finds, through which the node reaches
        others; the name of a network interface such as `ib0`; a network such as
        `10.0.0.0/8`; or an address. By default `AREAL_CPPO_LISTEN`, or `node`.

    Raises
    ------
    UserError
        This machine has no such interface or address.
    """
    choice = choice or os.environ.get(LISTEN_VARIABLE) or NODE
    if choice == LOOPBACK:
        return _LOOPBACK_ADDRESS
    if choice == NODE:
        return original("areal.utils.network:gethostip")()
    return _own_address(choice)


def narrow_this_process() -> str:
    """Let this process listen only on its address, from now on; returns the address.

    What it has listened on before stays. May be called again.

    Raises
    ------
    UserError
        This machine has no such address.
    ChangedUpstream
        AReaL or torch can't be narrowed in this way any more.
    """
    address = listen_address()
    patch_areal.gethostip(address)
    patch_areal.find_free_ports()
    patch_torch.tcp_store(_listener)
    name = interface_of(address)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        if ipaddress.ip_address(address).is_loopback:
            # Beyond one machine NCCL chooses among several fast networks by itself.
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    return address


def interface_of(address: str) -> str | None:
    """The network interface that has an address; None if there is none."""
    for name, addresses in _interfaces().items():
        if address in addresses:
            return name
    return None


def _own_address(choice: str) -> str:
    interfaces = _interfaces()
    if choice in interfaces:
        candidates = interfaces[choice]
    else:
        try:
            network = ipaddress.ip_network(choice, strict=False)
        except ValueError:
            network = None
        candidates = [
            address
            for addresses in interfaces.values()
            for address in addresses
            if network is not None and ipaddress.ip_address(address) in network
        ]
    if not candidates:
        found = ", ".join(
            f"{name} {address}"
            for name, addresses in sorted(interfaces.items())
            for address in addresses[:1]
        )
        raise UserError(
            f"{LISTEN_VARIABLE}: expected {LOOPBACK}, {NODE}, or an interface, network "
            f"or address of {socket.gethostname()}, found {choice!r}; it has {found}"
        )
    return candidates[0]


def _interfaces() -> dict[str, list[str]]:
    """IP addresses by interface; of each IPv4 first, link-local ones left out."""
    import psutil

    return {
        name: sorted(
            (
                entry.address
                for entry in entries
                if entry.family in (socket.AF_INET, socket.AF_INET6)
                and "%" not in entry.address
            ),
            key=lambda address: ":" in address,
        )
        for name, entries in psutil.net_if_addrs().items()
    }


def _listener(host: str, port: int) -> socket.socket | None:
    """A socket that listens on `host:port`; None if this machine can't have it.

    That is so where a host's name leads to another machine's or a translated address,
    or a store of this process has the port already; torch decides then.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError:
        return None
