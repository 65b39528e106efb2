"""What SGLang and AReaL need in the environment of a machine without CUDA.

Nothing in here has an effect where a CUDA device is. A controller without a GPU whose
workers run on GPU nodes must not call `enable_in_this_process`: its environment is
inherited by them.
"""

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from areal_cppo.patches import torch as patch_torch

SHIM_FOLDER = Path(__file__).resolve().parent / "shim"

# Set whatever the user has: without them the CPU path does not start.
_REQUIRED = {"SGLANG_USE_CPU_ENGINE": "1"}

# Set only where the user has no opinion.
_DEFAULTS = {
    "HF_HUB_OFFLINE": "1",  # models are local folders: ask no network
    "TOKENIZERS_PARALLELISM": "false",  # its threads warn when a process forks
    "TORCHDYNAMO_DISABLE": "1",  # compiling a tiny model costs 40 s, saves nothing
    "OMP_NUM_THREADS": "1",  # two threads on a shared core wait for each other
}


def needs_shim() -> bool:
    """Whether torch sees no CUDA device, so that SGLang has to run on the CPU."""
    if metadata.version("torch").endswith("+cpu"):
        return True  # a build that sees none; to import it takes seconds
    import torch

    return not torch.cuda.is_available()


def cpu_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `base` for SGLang on a CPU; empty where a GPU is.

    Parameters
    ----------
    base
        The environment that a process would otherwise get, as `os.environ`.

    Returns
    -------
    dict[str, str]
        Only the variables that have to be added or changed.
    """
    if not needs_shim():
        return {}
    added = {name: value for name, value in _DEFAULTS.items() if not base.get(name)}
    added.update(_REQUIRED)
    added["PYTHONPATH"] = _with_first(str(SHIM_FOLDER), base.get("PYTHONPATH", ""))
    return added


def interpreter_environment(base: Mapping[str, str]) -> dict[str, str]:
    """PATH with this interpreter's folder first, on any machine.

    AReaL starts SGLang as `python3 -m ...`: without this a virtual environment that
    was not activated would start another Python's SGLang, or none.
    """
    folder = os.path.dirname(sys.executable)
    return {"PATH": _with_first(folder, base.get("PATH", os.defpath))}


def enable_in_this_process() -> None:
    """Let this interpreter import torchvision, and its children run SGLang, on CPU.

    May be called again; does nothing where a GPU is.
    """
    added = cpu_environment(os.environ)
    if not added:
        return
    if "OMP_NUM_THREADS" in added and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # it read the variable when imported
    os.environ.update(added)
    patch_torch.torchvision_meta_registrations()


def forget_pinned_memory() -> None:
    """Let torch make the tensors that SGLang's LoRA wants in pinned memory, unpinned.

    Pinned memory is for copies to a GPU; without one torch refuses to make any. Does
    nothing where a GPU is.
    """
    if not needs_shim():
        return
    patch_torch.tensor_constructors()
    patch_torch.tensor_pin_memory()


def _with_first(entry: str, path: str) -> str:
    """`path` (entries joined by os.pathsep) with `entry` moved or put first."""
    others = [part for part in path.split(os.pathsep) if part and part != entry]
    return os.pathsep.join([entry, *others])
