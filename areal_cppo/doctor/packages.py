"""Versions of packages, against those that AReaL pins and those that are needed here.

Read from the packages' metadata: nothing is imported, but flash-attention, in a process
of its own, because an installed one often doesn't load.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from areal_cppo.doctor import Check
from areal_cppo.errors import UserError
from areal_cppo.patches.version import installed

_FLASH_ATTENTION = ">=2.8"

# In a clone; README.md and docs/recipes.md name the same.
HOW_TO_INSTALL = "make setup"
HOW_TO_INSTALL_CUDA = "make setup-gpu"
HOW_TO_INSTALL_FLASH_ATTN = (
    f"pip install --no-deps --no-build-isolation 'flash-attn{_FLASH_ATTENTION}'"
)

_WANTED = {
    "sglang": "==0.5.10.post1",  # mended at its internals
    "torch": ">=2.9",
    "transformers": ">=5.3,<6",
    "kornia": ">=0.8",
    "datasets": ">=3",
    "torchvision": ">=0.20",
}
# Between the first and the last that tests passed with: docs/upstream.md has which.
_TRIED = {"torch": ">=2.9,<2.15", "transformers": ">=5.3,<5.25"}
_PINNED_BY_AREAL = ("torch", "transformers", "peft", "math-verify", "mathruler")
_EXTRAS = ("", "cuda", "sglang")
_IMPORT_SECONDS = 120  # a cold disk; more means that it hangs


def check_versions() -> None:
    """A UserError unless the packages are there in the versions needed."""
    for check in _needed():
        if check.lacking:
            raise UserError(check.as_line())


def package_checks() -> list[Check]:
    """A row a package: what this package needs, then what AReaL pins besides."""
    pins = areal_pins()
    rows = [check_tried(name, versions) for name, versions in _TRIED.items()]
    rows += [check_pin(name, pins[name]) for name in _PINNED_BY_AREAL if name in pins]
    return _needed() + rows


def _needed() -> list[Check]:
    wanted = [check_package(name, versions) for name, versions in _WANTED.items()]
    return [check_areal(), *wanted]


def check_areal() -> Check:
    """Whether the AReaL that `import areal` finds is one that this package knows."""
    try:
        found = installed()
    except UserError as error:
        return Check("areal", False, "none of use", str(error))
    where = f" (checkout in {found.folder.parent})" if found.is_checkout else ""
    return Check("areal", True, found.version + where)


def check_python() -> Check:
    """The interpreter's version: AReaL takes 3.11 and 3.12."""
    version = sys.version_info[:3]
    return Check(
        "Python",
        version[:2] in ((3, 11), (3, 12)),
        ".".join(map(str, version)),
        f"expected 3.11 or 3.12: {how_to_install()} PYTHON=/path/to/python3.11",
    )


def how_to_install() -> str:
    """The command that installs everything for this machine, with a GPU or without."""
    has_gpu = shutil.which("nvidia-smi") is not None
    return HOW_TO_INSTALL_CUDA if has_gpu else HOW_TO_INSTALL


def check_package(name: str, wanted: str, remedy: str | None = None) -> Check:
    """Whether a distribution is installed in a version that `wanted` allows.

    Parameters
    ----------
    name
        Of the distribution.
    wanted
        A version specifier, as `>=2.9`.
    remedy
        How to get it; by default with everything else.
    """
    remedy = remedy or how_to_install()
    found = _version(name)
    ready = found is not None and SpecifierSet(wanted).contains(found, prereleases=True)
    return Check(name, ready, found or "not installed", f"{remedy} (expected {wanted})")


def check_tried(name: str, versions: str) -> Check:
    """Whether a version is among those that this package was tried with."""
    check = check_package(name, versions, "docs/upstream.md says what was tried")
    found = f"{check.found} (tried: {versions})"
    title = f"{name} as it was tried"
    return Check(title, check.ready, found, check.remedy, required=False)


def check_pin(name: str, pins: SpecifierSet) -> Check:
    """Whether a version is what AReaL declares; it may work with others, untested."""
    remedy = f"fine without a GPU, where it is tested; for a GPU {HOW_TO_INSTALL_CUDA}"
    check = check_package(name, str(pins), remedy)
    found = f"{check.found} (AReaL: {pins})"
    title = f"{name} as AReaL pins it"
    return Check(title, check.ready, found, remedy, required=False)


def areal_pins() -> dict[str, SpecifierSet]:
    """What the installed AReaL declares: canonical name -> versions; empty without it.

    Only requirements that hold on this machine, with the extras `cuda` and `sglang`.
    """
    try:
        declared = metadata.requires("areal") or []
    except metadata.PackageNotFoundError:
        return {}
    pins: dict[str, SpecifierSet] = {}
    for line in declared:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in _EXTRAS):
            continue
        name = canonicalize_name(requirement.name)
        pins[name] = pins.get(name, SpecifierSet()) & requirement.specifier
    return {name: pin for name, pin in pins.items() if str(pin)}


def check_flash_attn(environment: Mapping[str, str] = os.environ) -> Check:
    """Whether the kernels of flash-attn load, not only whether it is installed.

    Parameters
    ----------
    environment
        Of the process that tries.
    """
    remedy = (
        "only for actor.attn_impl=flash_attention_2, after "
        f"{HOW_TO_INSTALL_CUDA}: {HOW_TO_INSTALL_FLASH_ATTN}; torch_flash needs none"
    )
    check = check_package("flash-attn", _FLASH_ATTENTION, remedy)
    if check.ready:
        program = "from flash_attn import flash_attn_varlen_func"
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=dict(environment),
                capture_output=True,
                text=True,
                timeout=_IMPORT_SECONDS,
            )
            failure = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            loads = done.returncode == 0
        except subprocess.TimeoutExpired:
            loads, failure = False, f"no end within {_IMPORT_SECONDS} s"
        if not loads:
            found = f"{check.found}, which can't be imported: {failure}"
            remedy = (
                "build it again, against this torch "
                f"({HOW_TO_INSTALL_FLASH_ATTN} --force-reinstall --no-cache-dir), or "
                "set actor.attn_impl=torch_flash"
            )
            return Check("flash-attn", False, found, remedy, required=False)
    return Check("flash-attn", check.ready, check.found, check.remedy, required=False)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
