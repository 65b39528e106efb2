"""`areal-cppo doctor`: what is ready, what is missing and how to get it."""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
_GIB = 2**30

# Measured on the demo: controller, trainer and server with the tiny model.
_DEMO_MEMORY_GIB = 6
_DEMO_DISK_GIB = 1
_DEMO_CORES = 2

_HOW_TO_INSTALL = "make setup"
_HOW_TO_INSTALL_CUDA = "pip install '.[cuda]' in a clone"


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was looked for.
        ready: whether it is there and good enough.
        found: what is there, in a few words.
        remedy: how to get it; shown if it is not ready.
        required: whether the demo needs it.
    """

    name: str
    ready: bool
    found: str
    remedy: str = ""
    required: bool = True

    @property
    def state(self) -> str:
        if self.ready:
            return "ready"
        return "MISSING" if self.required else "absent"


def doctor() -> int:
    """Print the table; 0 if the demo can run on this machine, 1 otherwise."""
    checks = all_checks()
    print(as_table(checks))
    lacking = [check.name for check in checks if check.required and not check.ready]
    if lacking:
        print(f"\nthe demo cannot run here yet: {', '.join(lacking)}")
        return 1
    print("\nthe demo can run here: areal-cppo demo (or make demo)")
    return 0


def all_checks() -> list[Check]:
    """Every row, in the order of the table."""
    return [
        check_python(),
        check_package("torch", "2.9"),
        check_package("transformers", "5.3"),
        check_package("areal", "1.0.4", exact=True),
        check_package("sglang", "0.5.10.post1", exact=True),
        check_package("kornia", "0.8"),
        check_package("datasets", "3"),
        check_cuda(),
        check_torchvision(),
        check_package(
            "flash-attn", "2.8", remedy=f"{_HOW_TO_INSTALL_CUDA}; GPU training only"
        ),
        check_sbatch(),
        check_cores(),
        check_memory(),
        check_disk(Path.cwd()),
        check_checkpoint(_PACKAGE_FOLDER / "triangles" / "checkpoint"),
    ]


def check_python() -> Check:
    version = sys.version_info[:3]
    return Check(
        "Python",
        version[:2] in ((3, 11), (3, 12)),
        ".".join(map(str, version)),
        "make setup PYTHON=/path/to/python3.11 (or 3.12)",
    )


def check_package(
    name: str, wanted: str, exact: bool = False, remedy: str | None = None
) -> Check:
    """A distribution's version, read from its metadata: nothing is imported.

    With a `remedy` of its own the package is optional, as it is for the demo.
    """
    required = remedy is None
    remedy = remedy or _HOW_TO_INSTALL
    sign = "==" if exact else ">="
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(
            name, False, "not installed", f"{remedy} ({sign}{wanted})", required
        )
    ready = found == wanted if exact else _numbers(found) >= _numbers(wanted)
    return Check(name, ready, found, f"{remedy} (expected {sign}{wanted})", required)


def check_cuda() -> Check:
    """Whether torch sees a CUDA device; the only check that imports torch."""
    remedy = f"none needed for the demo; for a GPU {_HOW_TO_INSTALL_CUDA}"
    try:
        from areal_cppo.serving.cpu import needs_shim

        without = needs_shim()
    except (ImportError, OSError) as error:
        return Check("CUDA device", False, f"torch: {error}", remedy, required=False)
    found = "none: everything runs on the CPU" if without else "seen by torch"
    return Check("CUDA device", not without, found, remedy, required=False)


def check_torchvision() -> Check:
    """torchvision and, where there is no GPU, the placeholders that it needs."""
    package = check_package("torchvision", "0.20")
    shim = _PACKAGE_FOLDER / "serving" / "shim" / "sitecustomize.py"
    if not package.ready or shim.is_file():
        return package
    return Check(
        "torchvision",
        False,
        f"{package.found}, but no {shim}",
        f"{_HOW_TO_INSTALL}: the installation lacks its CPU placeholders",
    )


def check_sbatch() -> Check:
    found = shutil.which("sbatch")
    return Check(
        "Slurm (sbatch)",
        found is not None,
        found or "not on PATH",
        "only for `areal-cppo slurm --submit`: run it where sbatch is",
        required=False,
    )


def check_cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check(
        "CPU cores",
        cores >= _DEMO_CORES,
        str(cores),
        f"the demo runs on one too, slowly; {_DEMO_CORES} or more are better",
        required=False,
    )


def check_memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return Check(
        "memory",
        gib >= _DEMO_MEMORY_GIB,
        f"{gib:.1f} GiB",
        f"a machine with {_DEMO_MEMORY_GIB} GiB or more",
    )


def check_disk(folder: Path) -> Check:
    gib = shutil.disk_usage(folder).free / _GIB
    return Check(
        "free disk",
        gib >= _DEMO_DISK_GIB,
        f"{gib:.1f} GiB in {folder}",
        f"free {_DEMO_DISK_GIB} GiB, or run elsewhere",
    )


def check_checkpoint(folder: Path) -> Check:
    ready = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return Check(
        "tiny checkpoint",
        ready,
        str(folder) if ready else f"no config.json and weights in {folder}",
        "a complete clone, or reinstall areal-cppo",
    )


def as_table(checks: list[Check]) -> str:
    """Aligned columns; the remedy on a line of its own."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name:<{width}}  {check.found}")
        if not check.ready and check.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return "\n".join(lines)


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"; stops at the first part that is no number."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
