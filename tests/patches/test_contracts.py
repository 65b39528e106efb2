"""All that this package overrides, patches and uses of AReaL's and SGLang's insides is
declared, is as it was when it was written, and is explained in docs/upstream.md.

What is mended by it is seen by the tests that the document names.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import areal_cppo
from areal_cppo.patches import areal, contracts, sglang, torch, transformers
from areal_cppo.patches.upstream import PATCHES, ChangedUpstream

ROOT = Path(areal_cppo.__file__).parents[1]
PACKAGE = ROOT / "areal_cppo"
DOCUMENT = ROOT / "docs" / "upstream.md"
THEIRS = ("areal", "sglang", "transformers")
GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
UNCHECKED = re.compile(r"__(?!post_init)\w+__")  # constructors fail by themselves
# Private names of torch and of Python that are used; theirs are in CONTRACTS.
NOT_THEIRS = {
    *("_C", "_current_graph_task_id", "_overloadpacket", "_schema", "_exit"),
    *("_flash_attention_forward", "_flash_attention_backward"),
    # Of the class that the method is defined in, called on another object of it.
    *("_attn_implementation", "_asdict", "_replace", "_fields"),
}


@pytest.fixture(scope="module")
def classes() -> list[type]:
    """Every class of this package."""
    found = []
    for module in pkgutil.walk_packages(areal_cppo.__path__, "areal_cppo."):
        if ".shim" in module.name or module.name.endswith("__main__"):
            continue
        names = vars(importlib.import_module(module.name))
        found += [
            value
            for value in names.values()
            if inspect.isclass(value) and value.__module__ == module.name
        ]
    return found


def overrides(classes: list[type]) -> Iterator[tuple[type, str, type]]:
    """A class of ours, a name in it, and their class that has it first."""
    for cls in classes:
        for at, ours in enumerate(cls.__mro__):
            if not ours.__module__.startswith("areal_cppo."):
                continue
            for name, value in vars(ours).items():
                function = callable(value) or isinstance(value, property | classmethod)
                if not function or UNCHECKED.fullmatch(name):
                    continue
                for theirs in cls.__mro__[at + 1 :]:
                    if theirs.__module__.partition(".")[0] in THEIRS:
                        if name in vars(theirs):
                            yield ours, name, theirs
                            break


def function_of(value):
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def declared() -> set[tuple[str, str]]:
    return {
        (owner, name)
        for owner, contract in contracts.CONTRACTS.items()
        for name in contracts.entries(contract)
    }


def test_every_override_says_so_and_is_declared(classes):
    unmarked, missing = set(), set()
    for ours, name, theirs in overrides(classes):
        if not getattr(function_of(vars(ours)[name]), "__override__", False):
            unmarked.add(f"{ours.__module__}.{ours.__qualname__}.{name}")
        place = f"{theirs.__module__}:{theirs.__qualname__}"
        if (place, name) not in declared():
            missing.add(f"{place}.{name}")
    assert not missing, f"add to CONTRACTS: {sorted(missing)}"
    assert not unmarked, f"mark with @override: {sorted(unmarked)}"


def test_an_override_takes_what_is_given_to_theirs(classes):
    refused = set()
    for ours, name, theirs in overrides(classes):
        mine = function_of(vars(ours)[name])
        parameters = inspect.signature(mine).parameters
        gathers = any(each.kind in GATHERING for each in parameters.values())
        given = inspect.signature(function_of(vars(theirs)[name])).parameters.values()
        refused |= {
            f"{ours.__qualname__}.{name}: {each.name}"
            for each in given
            if not gathers and each.kind not in GATHERING
            if each.name not in parameters
        }
    assert not refused


def test_private_names_of_theirs_are_declared():
    ours, used = set(), {}
    for file in PACKAGE.rglob("*.py"):
        if "shim" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name):
                name = getattr(node, "attr", None) or getattr(node, "id", "")
                if isinstance(node.ctx, ast.Store):
                    ours.add(name)
                elif isinstance(node, ast.Attribute) and re.match("_[^_]", name):
                    used.setdefault(name, file)
    known = {name.removeprefix("self.") for _, name in declared()}
    unknown = set(used) - ours - known - NOT_THEIRS
    assert not unknown, {name: str(used[name]) for name in unknown}


def test_nothing_is_declared_that_is_not_used():
    source = "".join(
        file.read_text()
        for file in PACKAGE.rglob("*.py")
        if file.parent.name != "patches"
    )
    unused = {
        name
        for _, name in declared()
        if not re.search(rf"\b{name.removeprefix('self.')}\b", source)
    }
    assert not unused


AREAL_OWNERS = [owner for owner in contracts.CONTRACTS if owner.startswith("areal.")]


@pytest.mark.parametrize("owner", AREAL_OWNERS)
def test_areal_is_as_it_was_when_this_was_written(owner):
    importlib.import_module(owner.partition(":")[0])
    contracts.check(owner)


def test_a_changed_method_is_told_at_the_start(monkeypatch):
    from areal.infra.controller.rollout_controller import RolloutController

    contracts.check_upstream()
    with monkeypatch.context() as patch:
        patch.setattr(RolloutController, "destroy", lambda self, how: None)
        with pytest.raises(ChangedUpstream, match=r"destroy: expected \(self\), found"):
            contracts.check_upstream()
    with monkeypatch.context() as patch:
        patch.setattr(RolloutController, "__init__", lambda self: None)
        with pytest.raises(ChangedUpstream, match="expected '_futures_lock' in its"):
            contracts.check_upstream()

    def _create_submit_callback(self, pending_task):
        """Does something else."""

    with monkeypatch.context() as patch:
        patch.setattr(
            RolloutController, "_create_submit_callback", _create_submit_callback
        )
        with pytest.raises(ChangedUpstream, match="expected code with digest"):
            contracts.check_upstream()


APPLY = """
import inspect
from areal_cppo.serving.cpu import enable_in_this_process
enable_in_this_process()
from areal_cppo.patches import areal, sglang, torch, transformers, upstream
from areal_cppo.patches.contracts import CONTRACTS, check_upstream
for owner in CONTRACTS:
    upstream.expect(owner)
check_upstream()
transformers.correct_image_positions()
given = {"gethostip": ["127.0.0.1"], "tcp_store": [lambda *_: None]}
for apply in upstream.PATCHES:
    if apply.__module__.endswith("transformers"):
        continue
    wanted = len(inspect.signature(apply).parameters) - 1
    apply(*given.get(apply.__name__, [lambda x: x] * wanted))
    apply(*given.get(apply.__name__, [lambda x: x] * wanted))
check_upstream()
print("applied", len(upstream.PATCHES))
"""


@pytest.mark.slow
def test_every_patch_finds_its_target():
    """In a process of their own, with SGLang imported."""
    done = subprocess.run(
        [sys.executable, "-c", APPLY], capture_output=True, text=True, timeout=300
    )
    assert f"applied {len(PATCHES)}" in done.stdout, done.stderr[-2000:]


def patches() -> dict[str, object]:
    """`areal.gethostip` and so on: the public functions of the modules of patches."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (areal, sglang, torch, transformers)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", patches())
def test_a_patch_says_what_is_wrong_and_where(name):
    doc = inspect.getdoc(patches()[name])
    grouping = name == "transformers.correct_image_positions"
    own = name == "areal.launch_command"
    assert doc and (grouping or own or "https://github.com/" in doc)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table behind a heading of the document."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines[2:]]


def ticked(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_document_names_every_patch():
    named = [name for row in rows("Patches") for name in ticked(row[0])]
    assert sorted(named) == sorted(patches())


def test_the_document_names_every_private_method_and_name():
    named = [
        (ticked(row[0])[0], name)
        for row in rows("Insides that are relied on")
        for name in ticked(row[1])
    ]
    private = [
        (owner.rpartition(":")[2] or owner.rstrip(":"), name.removeprefix("self."))
        for owner, name in declared()
        if name.removeprefix("self.").startswith("_") and not name.startswith("__")
    ]
    assert sorted(named) == sorted(private)


def defines(file: Path, name: str) -> bool:
    return re.search(rf"(def|class) {name}\b", file.read_text()) is not None


def test_files_and_tests_that_the_document_names_are_there():
    missing = []
    for name in ticked(DOCUMENT.read_text()):
        path, _, test = name.partition("::")
        if not re.fullmatch(r"[\w/]+\.(py|md)|(tests|areal_cppo|docs)/[\w/]+", path):
            continue
        found = [
            file
            for file in (ROOT / path, PACKAGE / path, *ROOT.glob(f"tests/*/{path}"))
            if file.exists()
        ]
        if not found or (test and not defines(found[0], test)):
            missing.append(name)
    assert not missing
