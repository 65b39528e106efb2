"""What README and docs show: links lead somewhere, commands are ones that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from areal_cppo.cli.main import parse
from tests.shown_commands import RUN_BY

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
# In commands: what stands for a value of one's own.
STAND_INS = {"N": "1", "SEED": "1", "OBJECTIVE": "cppo", "K": "1", "PORT": "30000"}


def text_of(page: Path) -> str:
    """Without code."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as the site and the forge make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target, anchor in LINK.findall(text_of(page)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name}: nothing at {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name}: {target} has no #{anchor}"


def lines_of_code(page: Path) -> list[str]:
    """Of shell blocks and of what is indented; continued ones joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.S)
    indented = re.findall(r"^ {4}(\S.*)$", text, flags=re.M)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += indented
    return [part.strip() for line in lines for part in line.split("&&")]


def commands(page: Path) -> list[str]:
    """Lines that begin with areal-cppo or make."""
    lines = lines_of_code(page)
    return [line for line in lines if re.match(r"(areal-cppo|make) \w", line)]


def words_of(line: str) -> list[str]:
    """A command's words, without its comment, its pipe and what is optional in it."""
    line = re.sub(r"\[--?[\w-]+(?: \w+)?\]|\[key=value ...\]", "", line)
    words = shlex.split(line, comments=True)
    ends = [words.index(sign) for sign in ("|", ">", "&") if sign in words]
    return [STAND_INS.get(word, word) for word in words[: min(ends, default=None)]]


SHOWN = [(name, line) for name, page in zip(NAMES, PAGES) for line in commands(page)]


@pytest.mark.parametrize(
    ("name", "line"), SHOWN, ids=[f"{n}: {x[:60]}" for n, x in SHOWN]
)
def test_a_shown_command_is_one(name, line, monkeypatch):
    """Its options, and the files of the repository that it names, are there."""
    first, *rest = words_of(line)
    if first == "make":
        targets = [word for word in rest if "=" not in word and word[0] != "-"]
        done = subprocess.run(
            ["make", "--dry-run", "--question", *targets],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "No rule" not in done.stderr, done.stderr
        return
    parse(rest)
    for word in rest:
        file = word.partition("=")[2] or word
        if re.match(r"(configs|examples)/\S+\.(yaml|py|jsonl)$", file):
            assert (ROOT / file).exists(), f"{name}: {file}"


PROGRAM = re.compile(
    r"(areal-cppo|make|python|pip|hf|sbatch|git|cat|mkdir|export|\.|\.venv/bin/python"
    r"|examples/\S+|[A-Z_]+=\S+) [\w./'-]"
)


def test_what_is_shown_is_run_by_a_test_or_has_a_reason():
    used = set()
    for name, page in zip(NAMES, PAGES):
        for line in filter(PROGRAM.match, lines_of_code(page)):
            found = next((row for row in RUN_BY if re.match(row[0], line)), None)
            assert found, f"{name}: nothing in tests/shown_commands.py is of {line}"
            used.add(found)
    assert set(RUN_BY) == used, "rows that no page needs any more"
    for _, by in RUN_BY:
        assert by.startswith("not: ") or (ROOT / by).exists(), by
