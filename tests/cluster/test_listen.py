"""Where a run's processes listen, on real sockets: AReaL's RPC worker, torch's store.

The sockets of a whole run, generation servers included, are looked at by tests/chaos.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from areal_cppo.cluster.worker import AREAL_WORKER, WORKER
from areal_cppo.errors import UserError
from areal_cppo.patches import areal as patch_areal
from areal_cppo.serving.listen import LISTEN_VARIABLE, interface_of, listen_address
from tests.cluster.rpc_process import listening, rpc_worker

CONFIG = Path(__file__).parents[2] / "areal_cppo" / "configs" / "triangles.yaml"


@pytest.mark.slow
def test_a_worker_listens_on_loopback(tmp_path):
    with rpc_worker(WORKER, tmp_path, "loopback") as (process, port):
        assert set(listening(process.pid).values()) == {"127.0.0.1"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
        # What others look up is the same address.
        records = [file.read_text() for file in tmp_path.rglob("ENTRY")]
        assert records == [f"127.0.0.1:{port}"]


@pytest.mark.slow
def test_areals_own_worker_listens_everywhere(tmp_path):
    """Should this fail one day, our worker may be needless."""
    with rpc_worker(AREAL_WORKER, tmp_path, "loopback") as (process, _):
        assert set(listening(process.pid).values()) <= {"0.0.0.0", "::"}


GROUP = """
import os, sys, psutil, torch.distributed as dist
from areal_cppo.serving.listen import narrow_this_process
if sys.argv[1] == "narrow":
    narrow_this_process()
dist.init_process_group(
    "gloo", init_method=f"tcp://localhost:{sys.argv[2]}", rank=0, world_size=1
)
dist.barrier()
print(*(c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"))
os._exit(0)
"""


@pytest.mark.parametrize("narrow", [True, False])
def test_torchs_store_listens_on_the_address_it_is_told(narrow):
    from areal.utils.network import find_free_ports

    (port,) = find_free_ports(1)
    words = [sys.executable, "-c", GROUP, "narrow" if narrow else "stock", str(port)]
    environment = os.environ | {LISTEN_VARIABLE: "loopback"}
    addresses = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert addresses
    outside = [a for a in addresses if not a.startswith("127.") and a != "::1"]
    assert bool(outside) != narrow


def node_address() -> str:
    """An address of this machine that is not loopback."""
    from areal.utils.network import gethostip

    address = gethostip()
    if interface_of(address) is None or address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_a_choice_is_an_interface_a_network_or_an_address():
    address = node_address()
    name = interface_of(address)
    assert listen_address(name) == listen_address("node") == address
    assert listen_address(address) == listen_address(f"{address}/32") == address
    assert listen_address("loopback") == listen_address("127.0.0.0/8") == "127.0.0.1"
    loopback = interface_of("127.0.0.1")
    assert loopback and listen_address(loopback) == "127.0.0.1"


@pytest.mark.parametrize("choice", ["nosuch0", "203.0.113.0/24", "203.0.113.7"])
def test_an_address_of_another_machine_is_refused(choice):
    with pytest.raises(
        UserError, match=f"{LISTEN_VARIABLE}: expected .* found '{choice}"
    ):
        listen_address(choice)


APPLY = """
import os, random, sys
from areal_cppo.serving.cpu import enable_in_this_process
enable_in_this_process()
from areal.infra.controller import rollout_controller
from areal.infra.scheduler import local
from areal.utils import network
from areal_cppo.errors import UserError
from areal_cppo.serving.listen import LISTEN_VARIABLE
from areal_cppo.config.experiment import load_config
from areal_cppo.cluster.worker import apply_listen_host
for several, choice in ((False, None), (True, None), (True, "loopback")):
    os.environ.pop(LISTEN_VARIABLE, None)
    if choice:
        os.environ[LISTEN_VARIABLE] = choice
    nodes = ["cluster.n_nodes=2"] * several
    config = load_config(sys.argv[1], [*sys.argv[2:], *nodes])
    try:
        print(apply_listen_host(config))
    except UserError as error:
        print("refused:", error)
        continue
    chosen = os.environ[LISTEN_VARIABLE]
    print(rollout_controller.gethostip(), local.gethostip(), chosen)
    specs = config.actor.scheduling_spec + config.rollout.scheduling_spec
    print(*{spec.cmd for spec in specs})
    assert isinstance(network.random, random.SystemRandom)
"""


@pytest.mark.slow
def test_one_machine_means_loopback_and_several_the_node(tmp_path):
    """What `apply_listen_host` does in a fresh process, line by line."""
    address = node_address()
    words = [sys.executable, "-c", APPLY, str(CONFIG), f"run_dir={tmp_path}"]
    lines = subprocess.run(
        words, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    worker = f"python3 -m {WORKER}"
    assert lines[:3] == ["127.0.0.1", "127.0.0.1 127.0.0.1 loopback", worker]
    assert lines[3:6] == [address, f"{address} {address} node", worker]
    (refused,) = lines[6:]
    assert refused.startswith("refused: AREAL_CPPO_LISTEN: expected an address that")


def test_runs_of_one_seed_draw_other_ports(monkeypatch):
    """AReaL seeds the generator that it draws ports from with the run's seed."""
    from areal.utils import network

    monkeypatch.setattr(network, "random", random)  # and back again

    def drawn() -> tuple[int, ...]:
        state = random.getstate()
        random.seed(1)
        try:
            return tuple(network.find_free_ports(5))
        finally:
            random.setstate(state)

    stock, stock_again = drawn(), drawn()
    assert stock == stock_again  # should this fail one day, ours may be needless
    patch_areal.find_free_ports()
    assert len({stock, drawn(), drawn()}) == 3
