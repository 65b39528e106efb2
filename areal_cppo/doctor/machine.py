"""What the machine has: GPUs, cores, memory, disk, shared memory, ports, Slurm."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from areal_cppo.doctor import Check
from areal_cppo.doctor.packages import HOW_TO_INSTALL, HOW_TO_INSTALL_CUDA

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")

# Measured on the demo: controller, trainer and server with the tiny model.
_DEMO_MEMORY_GIB = 6
_DEMO_CORES = 2
_DEMO_DISK = GIB

_TEMPORARY = GIB  # compiled kernels, sockets, logs of the start
_SHARED = GIB  # NCCL's buffers between GPUs of a node; containers often have 64 MiB
_PORTS = 64  # of a run on eight GPUs: 2 a worker, those of the servers, and NCCL's
_QUERY_SECONDS = 30
_TORCH_FLASH = "torch's flash-attention"
_AMPERE = 8.0  # compute capability


def machine_checks() -> list[Check]:
    """A row a thing, in the order of the table."""
    return [
        *check_gpus(),
        check_torch_flash(),
        check_compilers(),
        check_cores(),
        check_memory(),
        check_disk("disk here", Path.cwd(), _DEMO_DISK),
        check_disk("disk of temporary files", _temporary_folder(), _TEMPORARY),
        check_disk("shared memory", SHARED_MEMORY, _SHARED, required=False),
        check_ports(),
        check_sbatch(),
    ]


def machine_words() -> str:
    """GPUs, cores and memory in a line, for a run's record."""
    gpus = _query_gpus("name")
    kinds = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    cores = len(os.sched_getaffinity(0))
    cpus = f"{cores} CPU core{'s' * (cores != 1)}"
    return ", ".join([*kinds, cpus, f"{check_memory().found} of memory"])


def check_gpus() -> list[Check]:
    """What the driver says, and whether torch sees as much."""
    wanted = f"none needed for the demo; for a GPU {HOW_TO_INSTALL_CUDA}"
    driver = _query_driver()
    rows = [
        Check(
            "GPU driver",
            bool(driver),
            "; ".join(driver) or "no GPU listed by nvidia-smi",
            "none needed for the demo; GPU training needs NVIDIA's driver",
            required=False,
        )
    ]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [*rows, Check("torch's CUDA", False, str(error), HOW_TO_INSTALL)]
    count = torch.cuda.device_count()
    if count:
        names = {torch.cuda.get_device_name(index) for index in range(count)}
        found = f"CUDA {torch.version.cuda}, {count} x {', '.join(sorted(names))}"
        return [*rows, Check("torch's CUDA", True, found)]
    build = torch.version.cuda
    found = f"built for CUDA {build}, sees no device" if build else "a CPU build"
    if build:
        wanted = (
            "none needed for the demo; for a GPU a driver as new as that CUDA, a "
            "container that is given GPUs, and no empty CUDA_VISIBLE_DEVICES"
        )
    return [*rows, Check("torch's CUDA", False, found, wanted, required=False)]


def torch_sees_gpus() -> bool:
    """Whether this machine is one to train on: what runs there is a recipe."""
    try:
        import torch
    except (ImportError, OSError):
        return False
    return torch.cuda.device_count() > 0


def _query_driver() -> list[str]:
    """A line a kind of GPU: number, name, memory, driver; empty without any."""
    lines = _query_gpus("name,memory.total,driver_version")
    return [f"{lines.count(line)} x {line}" for line in dict.fromkeys(lines)]


def _query_gpus(fields: str) -> list[str]:
    """nvidia-smi's line for each GPU; empty without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return []
    if done.returncode:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def check_torch_flash() -> Check:
    """Whether torch's own flash-attention is in its build, and the GPUs can run it."""
    import torch

    remedy = f"only for training on GPUs: {HOW_TO_INSTALL_CUDA}"
    if not torch.backends.cuda.is_flash_attention_available():
        found = f"torch {torch.__version__} was built without it"
        return Check(_TORCH_FLASH, False, found, remedy, required=False)
    old = [cap for cap in _query_gpus("compute_cap") if float(cap) < _AMPERE]
    if old:
        found = f"GPUs of compute capability {', '.join(dict.fromkeys(old))}"
        remedy = f"flash-attention takes {_AMPERE:.1f} (Ampere) or later"
        return Check(_TORCH_FLASH, False, found, remedy, required=False)
    return Check(_TORCH_FLASH, True, f"in torch {torch.__version__}", required=False)


def check_compilers() -> Check:
    """What SGLang compiles some of its CUDA kernels with, when they are first used."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    nvcc = shutil.which("nvcc") or (str(toolkit) if toolkit.is_file() else None)
    found = {"nvcc": nvcc, "g++": shutil.which("g++")}
    missing = [name for name, path in found.items() if not path]
    return Check(
        "CUDA compiler",
        not missing,
        f"no {' and no '.join(missing)}" if missing else str(nvcc),
        "only for SGLang on GPUs: the CUDA toolkit of torch's version, and g++",
        required=False,
    )


def check_cores() -> Check:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    return Check(
        "CPU cores",
        cores >= _DEMO_CORES,
        str(cores),
        f"the demo runs on one too, slowly; {_DEMO_CORES} or more are better",
        required=False,
    )


def check_memory() -> Check:
    """The machine's memory, whoever uses it now."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Check(
        "memory",
        gib >= _DEMO_MEMORY_GIB,
        f"{gib:.1f} GiB",
        f"a machine with {_DEMO_MEMORY_GIB} GiB or more",
    )


def check_disk(name: str, folder: Path, needed: int, required: bool = True) -> Check:
    """Free bytes where `folder` is, or will be.

    Parameters
    ----------
    name
        Of the row.
    folder
        Need not exist yet.
    needed
        Bytes.
    required
        Whether nothing can run with less.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    return Check(
        name,
        free >= needed,
        f"{_size(free)} free in {folder}",
        f"expected {_size(needed)}: free some, or choose another place",
        required,
    )


def check_ports() -> Check:
    """Whether as many ports can be listened on as a run of eight GPUs takes."""
    with ExitStack() as sockets:
        for count in range(_PORTS):
            try:
                probe = sockets.enter_context(socket.socket())
                probe.bind(("", 0))
            except OSError as error:
                return Check(
                    "free ports",
                    False,
                    f"{count} ({error.strerror})",
                    f"expected {_PORTS}: end what holds them, or raise ulimit -n",
                )
    return Check("free ports", True, f"{_PORTS} or more")


def check_sbatch() -> Check:
    """Slurm's command, for runs on several nodes."""
    found = shutil.which("sbatch")
    return Check(
        "Slurm (sbatch)",
        found is not None,
        found or "not on PATH",
        "only for runs on several nodes: start them where sbatch is",
        required=False,
    )


def check_checkpoint(folder: Path) -> Check:
    """The tiny model of the demo."""
    ready = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return Check(
        "tiny checkpoint",
        ready,
        str(folder) if ready else f"no config.json and weights in {folder}",
        "a complete clone, or reinstall areal-cppo",
    )


def check_placeholders(folder: Path) -> Check:
    """What torchvision and SGLang need where there is no GPU."""
    ready = (folder / "sitecustomize.py").is_file()
    return Check(
        "CPU placeholders",
        ready,
        str(folder) if ready else f"no sitecustomize.py in {folder}",
        "a complete clone, or reinstall areal-cppo",
    )


def _temporary_folder() -> Path:
    return Path(os.environ.get("TMPDIR") or "/tmp")


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
