"""The doctor's checks against packages, folders and tools that are made up.

What it says of a configuration is in tests/config/test_preflight.py. Not covered: a
machine with a GPU or Slurm.
"""

import importlib.metadata
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
import torch

from areal_cppo.cli import doctor as command
from areal_cppo.cli.common import config_file
from areal_cppo.cli.main import main
from areal_cppo.doctor import Check, machine, packages
from areal_cppo.patches.version import look_at


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these distributions are installed."""

    def pretend(areal_requires: tuple[str, ...] | None = None, **versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        def requires(name: str) -> list[str]:
            if areal_requires is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return list(areal_requires)

        monkeypatch.setattr(packages.metadata, "version", version)
        monkeypatch.setattr(packages.metadata, "requires", requires)

    return pretend


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Programs on PATH that are made up: name -> the lines of a shell script."""

    def make(**scripts: str) -> None:
        for name, lines in scripts.items():
            file = tmp_path / name.replace("_", "-")
            file.write_text(f"#!/bin/sh\n{lines}\n")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    return make


@pytest.mark.parametrize(
    "found, wanted, ready",
    [
        ("2.13.0+cpu", ">=2.9", True),
        ("2.9", ">=2.9", True),
        ("2.8.1", ">=2.9", False),
        ("0.5.10.post1", "==0.5.10.post1", True),
        ("0.5.11", "==0.5.10.post1", False),
        ("5.3.0", ">=5.3,<6", True),
        ("6.0.0", ">=5.3,<6", False),
    ],
)
def test_versions_are_compared_as_versions(installed, found, wanted, ready):
    installed(torch=found)
    check = packages.check_package("torch", wanted)
    assert (check.ready, check.found) == (ready, found)


@pytest.mark.parametrize(
    ("program", "way"), [("other", "make setup"), ("nvidia_smi", "make setup-gpu")]
)
def test_a_missing_package_is_named_with_the_way_to_get_it(
    installed, tools, program, way
):
    installed()
    tools(**{program: ""})
    check = packages.check_package("kornia", ">=0.8")
    assert (check.state, check.remedy) == ("MISSING", f"{way} (expected >=0.8)")
    assert f" {way} PYTHON=" in packages.check_python().remedy
    flash_attn = packages.check_flash_attn()
    assert flash_attn.state == "absent"
    assert (
        "after make setup-gpu: pip install --no-deps --no-build-isolation "
        "'flash-attn>=2.8'; torch_flash needs none"
    ) in flash_attn.remedy


def test_what_areal_pins_is_read_from_its_metadata(installed):
    installed(
        areal_requires=(
            "torch<2.11,>=2.9.1 ; sys_platform == 'linux'",
            "torch<2 ; sys_platform == 'plan9'",
            "torch ; extra == 'cuda'",
            "peft<=0.18.1",
            "sglang[tracing]==0.5.10.post1 ; extra == 'sglang'",
            "megatron-core==0.17.0 ; extra == 'megatron'",
            "ray[default]",
        ),
        torch="2.13.0",
        peft="0.18.0",
    )
    pins = {name: str(pin) for name, pin in packages.areal_pins().items()}
    assert pins == {
        "torch": "<2.11,>=2.9.1",
        "peft": "<=0.18.1",
        "sglang": "==0.5.10.post1",
    }
    rows = {row.name: row for row in packages.package_checks()}
    torch, peft = rows["torch as AReaL pins it"], rows["peft as AReaL pins it"]
    assert torch.state == "absent" and "2.13.0 (AReaL: <2.11,>=2.9.1)" in torch.found
    assert peft.state == "ready"
    assert rows["torch"].state == "ready"  # ours, which decides
    assert rows["torch as it was tried"].state == "ready"
    installed(torch="2.99")
    tried = packages.check_tried("torch", ">=2.9,<2.14")
    assert tried.state == "absent" and "2.99 (tried: >=2.9,<2.14)" in tried.found


def test_without_areal_there_are_no_pins(installed, monkeypatch):
    installed(torch="2.9")
    monkeypatch.setattr(packages, "installed", lambda: look_at(Path("/nowhere")))
    assert packages.areal_pins() == {}
    states = {row.name: row.state for row in packages.package_checks()}
    assert states["areal"] == states["sglang"] == "MISSING"


@pytest.mark.parametrize(
    ("module", "state", "words"),
    [
        (None, "absent", "No module named 'flash_attn'"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "absent", "undefined sym"),
        ("x = 1", "absent", "cannot import name 'flash_attn_varlen_func'"),
        ("def flash_attn_varlen_func(): ...", "ready", "2.8.3"),
    ],
)
def test_flash_attention_has_to_load(installed, tmp_path, module, state, words):
    installed(**{"flash-attn": "2.8.3"})
    if module is not None:
        (tmp_path / "flash_attn.py").write_text(module)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    check = packages.check_flash_attn(environment)
    assert check.state == state and words in check.found
    assert check.ready or "--force-reinstall" in check.remedy


def test_torchs_own_flash_attention(tools, monkeypatch):
    """In the build of torch, and on GPUs that can run it."""
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", bool)
    assert "was built without it" in machine.check_torch_flash().found
    monkeypatch.setattr(
        torch.backends.cuda, "is_flash_attention_available", lambda: True
    )
    tools(nvidia_smi="echo 9.0\necho 7.5\necho 7.5")
    check = machine.check_torch_flash()
    assert check.state == "absent" and check.found.endswith("capability 7.5")
    tools(nvidia_smi="echo 8.0\necho 12.0")
    assert machine.check_torch_flash().ready


def test_compilers_of_kernels(tools, tmp_path, monkeypatch):
    """On the path, or where CUDA_HOME says; SGLang needs both on a GPU."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    tools(**{"g++": "exit 0"})
    assert machine.check_compilers().found == "no nvcc"
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "nvcc").touch()
    assert machine.check_compilers().found.endswith("bin/nvcc")


def test_the_driver_lists_gpus_by_kind(tools):
    line = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.1"
    tools(nvidia_smi=f"echo '{line}'\necho '{line}'")
    driver = machine.check_gpus()[0]
    assert driver.ready and driver.found == f"2 x {line}"
    tools(nvidia_smi="echo 'Failed to initialize NVML'\nexit 9")
    assert not machine.check_gpus()[0].ready


def test_slurm(tools, tmp_path):
    tools(other="")
    assert machine.check_sbatch().state == "absent"
    tools(sbatch="")
    assert machine.check_sbatch().found == str(tmp_path / "sbatch")


def test_disk_where_a_folder_will_be(tmp_path):
    folder = tmp_path / "not" / "yet"
    assert machine.check_disk("disk", folder, 1).ready
    check = machine.check_disk("disk", folder, 2**62)
    assert check.lacking and "GiB free in" in check.found
    assert not folder.exists()
    assert not machine.check_disk("disk", folder, 2**62, required=False).lacking


def test_ports_that_cannot_be_had(monkeypatch):
    assert machine.check_ports().ready

    class Full(socket.socket):
        def bind(self, address):
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(machine.socket, "socket", Full)
    check = machine.check_ports()
    assert check.lacking and "Address already in use" in check.found


def test_checkpoint_needs_config_and_weights(tmp_path):
    assert not machine.check_checkpoint(tmp_path).ready
    (tmp_path / "config.json").touch()
    assert not machine.check_checkpoint(tmp_path).ready
    (tmp_path / "model.safetensors").touch()
    assert machine.check_checkpoint(tmp_path).ready


def test_placeholders(tmp_path):
    assert machine.check_placeholders(tmp_path).lacking
    (tmp_path / "sitecustomize.py").touch()
    assert machine.check_placeholders(tmp_path).ready


@pytest.mark.parametrize(
    ("version", "ready"), [((3, 10), False), ((3, 11), True), ((3, 13), False)]
)
def test_python(monkeypatch, version, ready):
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    assert packages.check_python().ready is ready


def test_table_gives_remedies_only_where_needed():
    table = command.as_table(
        [Check("a", True, "1", "never"), Check("long", False, "-", "do")]
    )
    assert table.splitlines() == [
        "ready    a     1",
        "MISSING  long  -",
        "               -> do",
    ]


@pytest.mark.parametrize(
    "checks, status, words",
    [
        ([Check("a", True, "1")], 0, "can run here"),
        ([Check("b", False, "-", required=False)], 0, "can run here"),
        ([Check("c", False, "-"), Check("d", False, "-")], 1, "yet: c, d"),
    ],
)
def test_status_tells_whether_the_demo_can_run(
    monkeypatch, capsys, checks, status, words
):
    monkeypatch.setattr(command, "all_checks", lambda: checks)
    assert main(["doctor"]) == status
    assert words in capsys.readouterr().out


def test_a_configuration_adds_its_rows(monkeypatch, capsys):
    monkeypatch.setattr(command, "all_checks", lambda: [Check("a", True, "1")])
    config = str(config_file("triangles.yaml"))
    wrong = ["actor.path=/no/such/model", "reward.function=nothere.py:reward"]
    assert main(["doctor", "--config", config, *wrong]) == 1
    out = capsys.readouterr().out
    assert "MISSING  actor.path" in out and "expected a model folder" in out
    assert "MISSING  reward.function" in out and "nothere.py" in out
    assert "triangles cannot run here yet: actor.path, reward.function" in out


def test_every_check_runs_on_this_machine():
    checks = command.all_checks()
    assert all(check.found and (check.ready or check.remedy) for check in checks)
    assert len({check.name for check in checks}) == len(checks)
