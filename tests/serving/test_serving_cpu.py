"""The environment without CUDA: the variables, and the shim in a fresh interpreter.

Not covered: a real GPU; there `needs_shim` is replaced.
"""

import os
import subprocess
import sys

import pytest

from areal_cppo.serving import cpu


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(cpu, "needs_shim", lambda: True)


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(cpu, "needs_shim", lambda: False)


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )


def test_nothing_is_added_where_a_gpu_is(with_gpu, monkeypatch):
    assert cpu.cpu_environment({"PYTHONPATH": "/mine"}) == {}
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    before = dict(os.environ)
    cpu.enable_in_this_process()
    assert dict(os.environ) == before


def test_shim_is_first_and_the_users_choices_stay(without_gpu):
    base = {"PYTHONPATH": "/mine:/yours", "OMP_NUM_THREADS": "4", "PATH": "/bin"}
    added = cpu.cpu_environment(base)
    assert added["PYTHONPATH"] == f"{cpu.SHIM_FOLDER}:/mine:/yours"
    assert added["SGLANG_USE_CPU_ENGINE"] == "1"
    assert added["TORCHDYNAMO_DISABLE"] == "1"
    assert "OMP_NUM_THREADS" not in added
    assert cpu.cpu_environment({})["OMP_NUM_THREADS"] == "1"


def test_adding_twice_is_adding_once(without_gpu):
    once = cpu.cpu_environment({"PYTHONPATH": "/mine"})
    assert cpu.cpu_environment(once)["PYTHONPATH"] == once["PYTHONPATH"]


def test_this_interpreter_is_found_first_as_python3():
    path = cpu.interpreter_environment({"PATH": "/usr/bin"})["PATH"]
    assert path == f"{os.path.dirname(sys.executable)}{os.pathsep}/usr/bin"
    assert cpu.interpreter_environment({"PATH": path})["PATH"] == path


def test_importing_the_module_does_not_import_torch():
    done = run_python(
        "import sys, areal_cppo.serving.cpu, areal_cppo.serving.server\n"
        "assert 'torch' not in sys.modules and 'areal' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not cpu.needs_shim(), reason="the shim is never used with a GPU")
class TestShim:
    def test_kernels_can_be_imported_but_not_called(self):
        code = (
            "import sgl_kernel\n"
            "from sgl_kernel import rmsnorm\n"
            "from sgl_kernel.flash_attn import flash_attn_with_kvcache\n"
            "from sgl_kernel.a.b import c\n"
            "assert not hasattr(sgl_kernel, '__wrapped__')\n"
            "for kernel in (rmsnorm, flash_attn_with_kvcache, c, sgl_kernel.x.y):\n"
            "    try:\n"
            "        kernel(1, key=2)\n"
            "    except RuntimeError as error:\n"
            "        print(str(error).split()[0])\n"
        )
        done = run_python(code, PYTHONPATH=str(cpu.SHIM_FOLDER))
        assert done.stdout.split() == [
            "sgl_kernel.rmsnorm",
            "sgl_kernel.flash_attn.flash_attn_with_kvcache",
            "sgl_kernel.a.b.c",
            "sgl_kernel.x.y",
        ], done.stderr

    def test_torchvision_can_be_imported(self):
        code = (
            "import torch, torchvision.transforms.v2.functional as F\n"
            "print(tuple(F.resize(torch.zeros(3, 47, 31), [5, 7]).shape))"
        )
        done = run_python(code, PYTHONPATH=str(cpu.SHIM_FOLDER))
        assert done.stdout.strip() == "(3, 5, 7)", done.stderr

    def test_enabling_reaches_this_process_and_its_children(self):
        code = (
            "import os, subprocess, sys\n"
            "from areal_cppo.serving.cpu import enable_in_this_process\n"
            "enable_in_this_process()\n"
            "path = os.environ['PYTHONPATH']\n"
            "enable_in_this_process()\n"
            "assert os.environ['PYTHONPATH'] == path\n"
            "import torchvision.transforms\n"
            "child = 'import sgl_kernel, torchvision.transforms'\n"
            "sys.exit(subprocess.call([sys.executable, '-c', child]))"
        )
        done = run_python(code)
        assert done.returncode == 0, done.stderr

    def test_the_shadowed_sitecustomize_is_run(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text("MARK = 'shadowed'\n")
        done = run_python(
            "import sitecustomize, sys\n"
            "print(sitecustomize.MARK, sitecustomize.__file__)\n"
            "print('torchvision._meta_registrations' in sys.modules)",
            PYTHONPATH=os.pathsep.join([str(cpu.SHIM_FOLDER), str(tmp_path)]),
        )
        expected = ["shadowed", str(tmp_path / "sitecustomize.py"), "True"]
        assert done.stdout.split() == expected, done.stderr
