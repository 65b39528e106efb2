"""Source distribution and wheel hold all that the package needs, and work without the
repository around them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("areal_cppo", "configs", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta as b; print(b.build_{}('{}'))"
PROGRAM = """
from areal_cppo.config.files import PACKAGE
from areal_cppo.config.experiment import load_config
from areal_cppo.tasks.model import load_model
config = load_config('qwen2_5_vl-3b_geometry3k_grpo.yaml')
load_model(load_config('legends.yaml').actor.path)
print(PACKAGE, config.actor.objective)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def python(*arguments: str, cwd: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | more,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_an_installed_package_needs_no_repository(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source)
    archive = python("-c", BUILD.format("sdist", tmp_path), cwd=source)
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(tmp_path / archive, unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    wheel = python("-c", BUILD.format("wheel", tmp_path), cwd=folder)
    installed = tmp_path / "installed"
    with ZipFile(tmp_path / wheel) as file:
        file.extractall(installed)

    def held(folder: Path) -> set[str]:
        """Files of the package, its configurations among them."""
        return {
            str(file.relative_to(folder.parent))
            for base in (folder, folder / "configs")  # a link, in the repository
            for file in base.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }

    assert held(installed / "areal_cppo") == held(ROOT / "areal_cppo")
    empty = tmp_path / "empty"
    empty.mkdir()
    said = python("-c", PROGRAM, cwd=empty, PYTHONPATH=str(installed))
    assert said == f"{installed}/areal_cppo grpo"
