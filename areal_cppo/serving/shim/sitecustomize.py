"""Make torchvision importable where its compiled operators cannot be loaded.

Why this exists: the published torchvision wheel is built for CUDA. On a machine
without CUDA its operators do not load, and `torchvision._meta_registrations`, which
registers shapes for them, fails while it is imported and takes all of torchvision
with it. SGLang and the image processors use its Python transforms only, so an empty
module in that place is enough.

This folder is put at the head of PYTHONPATH by `areal_cppo.serving.cpu`, and only on
machines without a CUDA device. It is never used where a GPU is.

Python imports one `sitecustomize` only, the first on the path: the one that this
file shadows (the distribution's, or the user's own) is found and run below.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types


def _register_placeholder() -> None:
    name = "torchvision._meta_registrations"
    sys.modules.setdefault(name, types.ModuleType(name))


def _run_shadowed_sitecustomize() -> None:
    here = os.path.dirname(os.path.realpath(__file__))
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_register_placeholder()
_run_shadowed_sitecustomize()
