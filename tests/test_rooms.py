"""The rooms of the package: who may import whom, as CONTRIBUTING's table says.

Lazy imports and those for type checking count as well.
"""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "areal_cppo"
_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The modules that each imports."""
    built = grimp.build_graph(PACKAGE, cache_dir=None)
    return {
        module: built.find_modules_directly_imported_by(module)
        for module in built.modules
        if ".shim" not in module
    }


def room(module: str) -> str:
    """`areal_cppo.core.loss` is in `core`, `areal_cppo.errors` in `errors`."""
    return (module.split(".") + [""])[1]


@pytest.fixture(scope="module")
def table() -> dict[str, set[str]]:
    """By room, from the top to the bottom, what it may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = _ROW.findall(text.split("## Where things are")[1].split("\n## ")[0])
    return {name: set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}


def test_imports_are_those_of_the_table(graph, table):
    found: dict[str, set[str]] = {name: set() for name in table}
    for module, imported in graph.items():
        if room(module) in ("", "__main__"):
            continue
        others = {room(other) for other in imported} - {room(module), ""}
        found[room(module)] |= others
    assert found == table


def test_the_table_points_downwards(table):
    order = list(table)
    for name, allowed in table.items():
        assert all(order.index(other) > order.index(name) for other in allowed), name


def test_no_file_imports_itself_in_the_end(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' <- '.join(error.args[1])}")


def test_no_two_classes_have_one_name():
    found: dict[str, list[str]] = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.name)
    assert {name: at for name, at in found.items() if len(at) > 1} == {}
