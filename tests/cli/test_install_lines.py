"""README, recipes, doctor, Makefile, extras and locks say the same about installing.

Nothing is installed. What the doctor says when is in test_cli_doctor.py. Not covered:
that the lock for GPUs installs, which was tried by hand, and that its kernels run,
which needs a GPU.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from areal_cppo.doctor import packages
from areal_cppo.tasks.problems import TRIANGLES

ROOT = Path(__file__).parents[2]
FLASH_ATTN = packages.HOW_TO_INSTALL_FLASH_ATTN

# What the lock for GPUs pins in another version than the lock for CPUs, and who asks
# for that.
ELSEWHERE = {
    "compressed-tensors": "torch: later ones need 2.10",
    "networkx": "areal",
    "numpy": "mistral-common, for areal and sglang",
    "openai": "sglang",
    "peft": "areal",
    "python-dateutil": "botocore, for swanlab",
    "rich": "swanlab",
    "swanlab": "areal",
    "torch": "sglang",
    "torchvision": "torch",
    "triton": "torch",
}


def section(document: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    text = (ROOT / document).read_text().split(f"\n## {heading}\n")[1]
    return text.split("\n## ")[0]


def commands(text: str) -> list[str]:
    """The lines of indented blocks."""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def pins(lock: str) -> dict[str, str]:
    """Canonical name -> version."""
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    found = {canonicalize_name(name): version for name, version in pairs}
    assert len(found) == len(pairs), "a package twice"
    return found


def declared(section: str, key: str) -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in parser[section][key].split("\n") if line]


@pytest.fixture
def clone(tmp_path):
    """What make needs, and make's answer to a target there."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")

    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of `make test`
    environment = {name: os.environ[name] for name in os.environ if name not in outer}

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    make.folder = tmp_path
    return make


@pytest.mark.slow
def test_plain_imports_work():
    """In the environment of `make setup`, without a call of ours first."""
    program = f"""
import areal, torchvision.transforms
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = {str(TRIANGLES.checkpoint)!r}
print(type(AutoProcessor.from_pretrained(folder)).__name__)
print(type(AutoModelForImageTextToText.from_pretrained(folder)).__name__)
"""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=bare,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "Qwen2_5_VLProcessor",
        "Qwen2_5_VLForConditionalGeneration",
    ]


def test_the_lock_for_cpus_brings_torchvision_to_run(clone):
    assert "cp requirements/cpu.pth " in clone("--dry-run", "setup").stdout
    assert "cpu.pth" not in clone("--dry-run", "setup-gpu").stdout
    *comments, line = (ROOT / "requirements" / "cpu.pth").read_text().splitlines()
    assert all(comment.startswith("#") for comment in comments)
    assert line.startswith("import ")  # what makes Python run it


def test_documents_name_the_commands_in_the_order_that_works():
    readme = commands(section("README.md", "On GPUs"))
    recipes = commands(section("docs/recipes.md", "1. Install"))
    doctor = commands(section("docs/recipes.md", "3. Doctor"))
    clone, install, activate, *rest = recipes
    assert clone.startswith("git clone ")
    assert install == packages.HOW_TO_INSTALL_CUDA
    assert activate == ". .venv/bin/activate"
    assert rest == [FLASH_ATTN]
    assert readme == [install, activate, "areal-cppo doctor"]
    assert f"`{FLASH_ATTN}`" in section("README.md", "On GPUs")
    assert [line.split(" --config")[0] for line in doctor] == readme[-1:]
    assert f"`{packages.HOW_TO_INSTALL}`" in section("docs/recipes.md", "1. Install")


@pytest.mark.parametrize(
    ("target", "lock", "other"),
    [("setup", "cpu.txt", "gpu.txt"), ("setup-gpu", "gpu.txt", "cpu.txt")],
)
def test_each_target_installs_its_lock(clone, target, lock, other):
    done = clone("--dry-run", target)
    assert done.returncode == 0, done.stderr
    installs = [line for line in done.stdout.splitlines() if " install " in line]
    assert sum(f"--no-deps -r requirements/{lock}" in line for line in installs) == 1
    assert not any(other in line for line in installs)


@pytest.mark.parametrize(
    ("target", "stamp", "wanted", "found"),
    [
        ("setup", ".ready-gpu", "cpu.txt", "gpu.txt"),
        ("setup-gpu", ".ready", "gpu.txt", "cpu.txt"),
    ],
)
def test_a_venv_of_the_other_lock_is_left_alone(clone, target, stamp, wanted, found):
    held = clone.folder / ".venv" / stamp
    held.parent.mkdir()
    held.touch()
    done = clone(target)
    message, _ = done.stderr.splitlines()  # the other is make's own
    assert done.returncode == 2
    assert message.startswith(
        f"error: expected a .venv for requirements/{wanted}, "
        f"found one with requirements/{found}; "
    )
    assert list(held.parent.iterdir()) == [held]


def test_a_set_up_that_failed_midway_goes_on_with_its_lock(clone):
    python = clone.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert clone("setup-gpu", "PIP=false").returncode == 2
    assert "found one with requirements/gpu.txt" in clone("setup", "PIP=true").stderr
    assert clone("setup-gpu", "PIP=true").stdout.endswith("set-up done\n")
    assert clone("setup-gpu", "PIP=false").returncode == 0  # nothing left to do


def test_the_lock_for_gpus_has_what_setup_cfg_asks_for():
    lock = pins("gpu.txt")
    extra = declared("options.extras_require", "cuda")
    for needed in (*declared("options", "install_requires"), *extra):
        version = lock[canonicalize_name(needed.name)]
        assert needed.specifier.contains(version, prereleases=True), needed
    exact = {needed.name: str(needed.specifier) for needed in extra}
    assert exact["sglang"] == packages._WANTED["sglang"] == f"=={lock['sglang']}"
    assert exact["areal"] == f"=={lock['areal']}" == "==1.0.4"
    (flash_attn,) = declared("options.extras_require", "flash-attn")
    assert flash_attn.name not in lock  # from source, for those who ask for it


def test_both_locks_pin_the_same_where_they_can():
    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert different == ELSEWHERE.keys()
