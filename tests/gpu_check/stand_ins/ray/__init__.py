"""Stands in for Ray, which `import areal` asks for and the GPU check never uses.

Ray alone is larger than all the wheels that the check carries. Here is what AReaL
1.0.4 names while it is imported, and the question that it asks later: whether Ray was
started. Any other name is missing, and none of these can be made or started, so that
nothing goes on as if Ray were there. The folder of stand-ins belongs last on
`sys.path`: what is installed comes first.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import Any, NoReturn

_SUBMODULES: dict[str, tuple[str, ...]] = {
    "actor": ("ActorHandle",),
    "exceptions": (),
    "runtime_env": ("RuntimeEnv",),
    "util": (),
    "util.placement_group": (
        "PlacementGroup",
        "placement_group",
        "remove_placement_group",
    ),
    "util.scheduling_strategies": ("PlacementGroupSchedulingStrategy",),
}


def is_initialized() -> bool:
    return False


def remote(actor: type) -> type:
    """AReaL decorates classes with it; they are started through `init`, not here."""
    return actor


def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(f"{type(self).__name__}: Ray is not installed here")


def _placeholder(name: str) -> type:
    return type(name, (), {"__init__": _refuse, "__module__": __name__})


ObjectRef = _placeholder("ObjectRef")
for _path, _names in _SUBMODULES.items():
    _module = module_from_spec(ModuleSpec(f"{__name__}.{_path}", None))
    vars(_module).update({name: _placeholder(name) for name in _names})
    sys.modules[_module.__name__] = _module
    _parent, _, _child = _module.__name__.rpartition(".")
    setattr(sys.modules[_parent], _child, _module)
