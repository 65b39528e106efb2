"""Which AReaL is there, by folders that are made up; any that isn't known is refused,
and starts no server. That both run: docs/upstream.md says what was tried.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from areal_cppo.errors import UserError
from areal_cppo.patches import version
from areal_cppo.patches.contracts import check_upstream
from areal_cppo.patches.version import LAUNCHERS, look_at
from areal_cppo.serving.launch import MODULE, guarded

OLD, NEW = LAUNCHERS
OTHER = "areal.v3.serve"


def make_areal(root: Path, number: str, *launchers: str) -> Path:
    """A checkout: its number, an empty package, empty launchers; the package."""
    for module in launchers:
        file = root / (module.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True)
        file.touch()
    folder = root / "areal"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    (root / "pyproject.toml").write_text(f"[project]\nversion = '{number}'\n")
    return folder


@pytest.mark.parametrize(
    ("number", "launcher"), [("1.0.4", OLD), ("1.0.4", NEW), ("2.0.0", NEW)]
)
def test_what_is_known(tmp_path, number, launcher):
    found = look_at(make_areal(tmp_path, number, launcher))
    assert (found.version, found.launcher) == (number, launcher)
    assert found.is_checkout and launcher == f"{found.sglang}.launch_server"


UNKNOWN = [
    ("2.1.0", (NEW,)),
    ("1.0.3", (OLD,)),
    ("20.0.1", (NEW,)),
    ("2.0.0", (OTHER,)),
    ("2.0.0", ()),
    ("2.0.0", (OLD, NEW)),
]


@pytest.mark.parametrize(("number", "launchers"), UNKNOWN)
def test_whatever_else_there_is_starts_nothing(
    tmp_path, monkeypatch, number, launchers
):
    folder = make_areal(tmp_path, number, *launchers)
    with pytest.raises(UserError) as error:
        look_at(folder)
    said = str(error.value)
    assert number in said and str(folder) in said and "\n" not in said
    for module in (version, sys.modules[check_upstream.__module__]):
        monkeypatch.setattr(module, "installed", lambda: look_at(folder))
    monkeypatch.setattr("areal_cppo.patches.areal.installed", lambda: look_at(folder))
    for known in (*LAUNCHERS, *launchers):
        with pytest.raises(UserError, match="expected AReaL 1.0.4, or 2.0"):
            guarded(["python3", "-m", known])
    with pytest.raises(UserError, match="expected AReaL 1.0.4, or 2.0"):
        check_upstream()


def test_the_first_on_the_path_is_the_one(tmp_path):
    """Also where the wheel is installed, whose number pip tells."""
    make_areal(tmp_path, "2.0.0", NEW)
    program = (
        "from areal_cppo.patches.version import installed;"
        "from areal_cppo.serving.launch import guarded;"
        "print(installed().version, *guarded(['python3', '-m', installed().launcher]))"
    )
    root = Path(version.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["2.0.0", "python3", "-m", MODULE], done.stderr
