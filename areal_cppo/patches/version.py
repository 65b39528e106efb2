"""Which AReaL is there: the one place that knows what differs between its versions.

Its number says little. PyPI's 1.0.4 is not the code of tag v1.0.4; v2.0.0 and all that
came after it call themselves 2.0.0; a checkout that is first on PYTHONPATH is taken, by
`importlib.metadata`, for the wheel behind it. So an AReaL is told by what it has, and
named by where it lies.

What has another signature, but the same meaning, is in `contracts`, with all of its
signatures.
"""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from areal_cppo.errors import UserError

# What starts SGLang, by its place in the package: of 1.0.4, and of 2.0.
LAUNCHERS = (
    "areal.experimental.inference_service.sglang.launch_server",
    "areal.v2.inference_service.sglang.launch_server",
)
KNOWN = "AReaL 1.0.4, or 2.0 from v2.0.0 on"


@dataclass(frozen=True)
class AReaL:
    """An AReaL that this package is written against.

    Attributes
    ----------
    version
        Its number.
    folder
        Of the package `areal`.
    launcher
        The module that starts SGLang.
    """

    version: str
    folder: Path
    launcher: str

    @property
    def sglang(self) -> str:
        """The package that the launcher is in."""
        return self.launcher.rpartition(".")[0]

    @property
    def is_checkout(self) -> bool:
        """Whether it is used from its repository."""
        return _project(self.folder).is_file()


@cache
def installed() -> AReaL:
    """The AReaL that `import areal` finds; it isn't imported.

    Raises
    ------
    UserError
        There is none, or one that this package doesn't know.
    """
    spec = find_spec("areal")
    if spec is None or spec.origin is None:
        raise UserError(
            f"areal: expected {KNOWN}, found none; make setup installs it, and "
            "docs/upstream.md says where else it is"
        )
    return look_at(Path(spec.origin).parent)


def look_at(folder: Path) -> AReaL:
    """The AReaL in the folder of its package.

    Raises
    ------
    UserError
        Neither its number nor its launcher may be another than those known: what
        starts a server must be replaced, or the server would be open to everybody.
    """
    version = _number(folder)
    found = [name for name in LAUNCHERS if (folder.parent / _path(name)).is_file()]
    if not (version == "1.0.4" or version.startswith("2.0.")) or len(found) != 1:
        raise UserError(
            f"areal: expected {KNOWN}, with one of {' and '.join(LAUNCHERS)}, found "
            f"{version} with {' and '.join(found) or 'neither'} in {folder}; use one "
            "of docs/upstream.md, or adapt areal_cppo/patches"
        )
    return AReaL(version, folder, found[0])


def sglang_package() -> str:
    """Where the modules of AReaL's launcher are; of an unknown AReaL, where 1.0.4 has
    them, which are then found missing by whoever patches them."""
    try:
        return installed().sglang
    except UserError:
        return LAUNCHERS[0].rpartition(".")[0]


@cache
def normalizes_groups() -> bool:
    """Whether AReaL tells its normalisation how large each group is."""
    from areal.utils.data import Normalization

    return "group_sizes" in inspect.signature(Normalization.__call__).parameters


def _project(folder: Path) -> Path:
    return folder.parent / "pyproject.toml"


def _number(folder: Path) -> str:
    """Of a checkout what its pyproject.toml says, otherwise what pip says."""
    if _project(folder).is_file():
        project = tomllib.loads(_project(folder).read_text(encoding="utf-8"))
        return project.get("project", {}).get("version", "no version")
    try:
        return metadata.version("areal")
    except metadata.PackageNotFoundError:
        return "no version"


def _path(module: str) -> str:
    return module.replace(".", "/") + ".py"
