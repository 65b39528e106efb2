"""The folder of results: a file a step while it runs, one file in the end.

`NN-name.json` is there from a step's beginning and holds what it has found so far.
At the end `summary.json` takes them all in, and before that as often as there are
many, so that a tool which brings back eight files brings back all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.gpu_check.steps import STEPS, Step

RUNNING, PASSED, FAILED = "running", "passed", "failed"
NOT_RUN = "not run: out of time"
SUMMARY = "summary.json"
_ROOM = 6  # files

Document = dict[str, Any]


def begin(step: Step, began: float) -> Document:
    """A step's document when it begins; `began` in seconds since 1970."""
    return {
        "step": step.number,
        "name": step.name,
        "status": RUNNING,
        "began": began,
        "seconds": None,
        "headline": "",
        "figures": {},
        "bounds": [],
        "error": None,
        "traceback": None,
    }


def write(folder: Path, document: Document) -> None:
    """A step's file; whole at every moment."""
    name = f"{document['step']:02}-{document['name']}.json"
    _write(folder / name, document)


def read(folder: Path) -> dict[int, Document]:
    """By number, the documents of the summary and of steps that came after it."""
    documents = {}
    if (folder / SUMMARY).exists():
        for document in json.loads((folder / SUMMARY).read_text())["steps"]:
            documents[document["step"]] = document
    for path in sorted(folder.glob("[0-9][0-9]-*.json")):
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:  # taken into the summary meanwhile
            continue
        documents[document["step"]] = document
    return dict(sorted(documents.items()))


def forget(folder: Path, step: Step) -> None:
    """Drop what an earlier run in the same folder found in a step."""
    kept = [d for number, d in read(folder).items() if number != step.number]
    if kept:
        _summarize(folder, kept)
    else:
        (folder / SUMMARY).unlink(missing_ok=True)
    for path in folder.glob("[0-9][0-9]-*.json"):
        path.unlink()


def make_room(folder: Path) -> None:
    """Before another step's file: take those that there are into the summary, if with
    it and what is being written there could be more than eight."""
    if len(list(folder.iterdir())) > _ROOM:
        fold(folder)


def fold(folder: Path) -> list[Document]:
    """Take all steps into the summary; the documents in order."""
    documents = list(read(folder).values())
    _summarize(folder, documents)
    for path in folder.glob("[0-9][0-9]-*.json"):
        path.unlink()
    return documents


def _summarize(folder: Path, documents: list[Document]) -> None:
    known = {document["step"] for document in documents}
    summary = {
        "complete": known >= {step.number for step in STEPS if not step.asked},
        "passed": all(d["status"] == PASSED for d in documents),
        "steps": documents,
    }
    _write(folder / SUMMARY, summary)


def _write(path: Path, document: Document) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(part, path)


def table(documents: list[Document]) -> str:
    """A line a step; below, bounds that don't hold and errors."""
    rows = [("step", "seconds", "result", "main figure")]
    rows += [_row(document) for document in documents]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        f"{step:<{widths[0]}}  {seconds:>{widths[1]}}  {result:<{widths[2]}}  {figure}"
        for step, seconds, result, figure in rows
    ]
    return "\n".join(
        line.rstrip() for line in [*lines, *map(" ".join, trouble(documents))]
    )


def trouble(documents: list[Document]) -> list[tuple[str, str]]:
    """Step and words, of each error and each bound that doesn't hold."""
    found = []
    for document in documents:
        name = f"{document['step']} {document['name']}:"
        if document["error"] is not None:
            found.append((name, document["error"]))
        for bound in document["bounds"]:
            if not bound["held"]:
                values = f"found {_short(bound['found'])}, expected {bound['limit']}"
                found.append((name, f"{bound['name']}: {values}"))
    return found


def markdown(documents: list[Document]) -> str:
    """The table of docs/gpu.md, and where and with what it was made."""
    lines = []
    for about in _different([d["about"] for d in documents if "about" in d]):
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)
        where = f"{about['chip']}, driver {about['driver']}, {about['cores']} cores"
        when = f"{about['date']}, commit {about['commit']}"
        lines += [f"{where}; {versions}; {when}; `{about['command']}`.", ""]
    lines += ["| step | seconds | result | main figure |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(_row(document))} |" for document in documents]
    if found := trouble(documents):
        lines += ["", *(f"- {name} {words}" for name, words in found)]
    return "\n".join(lines)


def _different(abouts: list[dict]) -> list[dict]:
    """Each machine, commit and command once, with its first date."""
    kept: dict[str, dict] = {}
    for about in abouts:
        key = json.dumps({k: v for k, v in about.items() if k != "date"})
        kept.setdefault(key, about)
    return list(kept.values())


def _row(document: Document) -> tuple[str, str, str, str]:
    seconds = document["seconds"]
    result = document["status"]
    held = sum(bound["held"] for bound in document["bounds"])
    if document["bounds"]:
        result += f", {held} of {len(document['bounds'])} bounds"
    return (
        f"{document['step']} {document['name']}",
        "-" if seconds is None else f"{seconds:.1f}",
        result,
        document["headline"],
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
