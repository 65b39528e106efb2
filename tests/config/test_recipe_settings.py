"""docs/settings.md: every setting that a GPU recipe has and the demo hasn't is shown.

The table's settings, values and tests are compared with the YAMLs, as AReaL's loader
resolves them, with the tests that there are and with the steps of the GPU check.
"""

from __future__ import annotations

import ast
import re
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.config.shipped import CONFIGS, RECIPES, flat

ROOT = CONFIGS.parent
DOCUMENT = ROOT / "docs" / "settings.md"
GPU_STEPS = range(1, 10)
MOST_VALUES = 4  # in a cell
NONE = "-"


@dataclass
class Row:
    """A line of the table: patterns of settings, two cells of values, what shows it."""

    settings: list[str]
    demo: str
    recipes: str
    shown_by: str


def matches(key: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def rows() -> list[Row]:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]
    return [
        Row(re.findall(r"`([^`]+)`", settings), demo, recipes, shown_by)
        for settings, demo, recipes, shown_by in cells
    ]


@pytest.fixture(scope="module")
def different(as_shipped) -> dict[str, tuple[str, frozenset[str]]]:
    """By setting: the demo's value, and those of the recipes that have another."""
    demo = flat(asdict(as_shipped("triangles.yaml")))
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for name in RECIPES:
        recipe = flat(asdict(as_shipped(name)))
        for key in demo.keys() | recipe.keys():
            one, other = (said(values.get(key, NONE)) for values in (demo, recipe))
            if one != other:
                known = found.get(key, (one, frozenset()))[1]
                found[key] = (one, known | {other})
    return found


def said(value: Any) -> str:
    """As in the document: paths of the package begin with its name."""
    text = "null" if value is None else str(value)
    return text.removeprefix(f"{DOCUMENT.parents[1]}/")


def cell(values: set[str]) -> str:
    return ", ".join(sorted(values)) if len(values) <= MOST_VALUES else "various"


def test_every_setting_is_in_the_table(different):
    patterns = [pattern for row in rows() for pattern in row.settings]
    missing = [key for key in different if not matches(key, patterns)]
    assert not missing, "a row of docs/settings.md for each, and a test that shows it"


def test_the_table_has_no_other(different):
    for row in rows():
        for pattern in row.settings:
            assert any(fnmatchcase(key, pattern) for key in different), pattern


def test_the_values_are_those_of_the_configurations(different):
    for row in rows():
        values = [different[key] for key in different if matches(key, row.settings)]
        expected = (
            cell({demo for demo, _ in values}),
            cell({value for _, recipes in values for value in recipes}),
        )
        assert (row.demo, row.recipes) == expected, row.settings


def test_what_shows_them_is_there():
    for row in rows():
        tests = re.findall(r"`tests/([\w/]+\.py)::(\w+)`", row.shown_by)
        steps = re.findall(r"gpu-check ([\d, ]+)", row.shown_by)
        assert tests or steps, row.settings
        for file, name in tests:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            functions = [n.name for n in ast.walk(tree) if hasattr(n, "name")]
            assert name in functions, f"{file}::{name}"
        for step in re.findall(r"\d+", " ".join(steps)):
            assert int(step) in GPU_STEPS
