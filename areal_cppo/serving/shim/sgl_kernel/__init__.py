"""A placeholder for SGLang's kernel package on machines without CUDA.

Why this exists: SGLang imports names from `sgl_kernel` when its modules load, also on
the CPU path that never calls them, and the published wheel holds CUDA code only. Here
every name, and every submodule, can be imported; calling one raises an error that
names it.

This folder is put at the head of PYTHONPATH by `areal_cppo.serving.cpu`, and only on
machines without a CUDA device. It is never used where a GPU is: importing it there is
refused below, because it would hide the real kernels.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from typing import NoReturn

import torch

# What SGLang's version check accepts: the kernel version that 0.5.10.post1 asks for.
__version__ = "0.4.1"

if torch.cuda.is_available():
    raise ImportError(
        "areal_cppo's CPU placeholder of sgl_kernel was imported on a machine with a "
        "CUDA device: take areal_cppo/serving/shim off PYTHONPATH"
    )


class Placeholder:
    """Stands for a kernel (or a class, or a namespace of them) that is not here."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(
            f"{self._path} is a CUDA kernel of SGLang and this machine has no CUDA "
            "device: choose a backend that does without it (see docs, serving)"
        )

    def __getattr__(self, name: str) -> "Placeholder":
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self._path}.{name}")

    def __repr__(self) -> str:
        return f"<placeholder of {self._path}>"


class _SubmoduleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports any `sgl_kernel.<...>` as an empty module of placeholders."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith(f"{__name__}."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = _attributes_of(spec.name)
        return module

    def exec_module(self, module):
        """Nothing to run: the attributes are made on demand."""


def _attributes_of(module_name: str):
    def module_getattr(name: str) -> Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{module_name}.{name}")

    return module_getattr


__getattr__ = _attributes_of(__name__)
sys.meta_path.insert(0, _SubmoduleFinder())
