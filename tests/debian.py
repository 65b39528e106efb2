"""Debian packages that tests need, installed where they may be."""

from __future__ import annotations

import os
import shutil
import subprocess

_INSTALL_SECONDS = 600


def install_packages(packages: tuple[str, ...], missing: type[Exception]) -> None:
    """Install them with apt-get; raises `missing`, saying why, where that fails."""
    names = ", ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise missing(f"no {names}, and no root and apt-get to install it with")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        [
            *("apt-get", "install", "-y", "-qq", "--no-install-recommends"),
            *("-o", f"DPkg::Lock::Timeout={_INSTALL_SECONDS // 2}", *packages),
        ],
    ):
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise missing(f"{' '.join(command)}: timed out") from error
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise missing(f"{' '.join(command)}: {' '.join(last)}")
