"""The files of a run's folder.

    config.yaml        the resolved configuration
    metrics.jsonl      a line a train step
    metrics.json       what each name in it means
    evaluations.jsonl  a line an evaluation on held-out problems, or a validation
    ledger.jsonl       a line a train step: the problems it was made with
    events.jsonl       a line whenever something started, stopped or failed
    summary.json       the run in one object
    timeline.json      when was generated, trained, and weights were handed over
    samples.json       held-out responses, token by token, with samples/*.png
    samples/           of some steps responses that were trained on, and refused ones:
                       step-*.json and their pictures, step-*.webp
    report.html        all of it, to look at
    validation/        what was answered in each validation
    checkpoints/       weights to use: Hugging Face folders
    recover/           checkpoints to go on from
    logs/              what every process printed
    .lock              held by the run that goes on here

Lines are appended whole and flushed, so a run that is killed keeps every finished step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The instant in AReaL's trace that says which unix time the trace's clock shows.
CLOCK = "clock"
# Events of a run as a whole: it begins, or goes on; it ended as it should; it failed.
STARTED, FINISHED, FAILED = "run_started", "run_finished", "run_failed"
LIFE = (STARTED, FINISHED, FAILED)
# What was warned of before the first step; and words of one that a model card heeds.
WARNING, SHARED = "warning", "shares with train_dataset"
_STEP = re.compile(r"step-(\d+)")


class RunFolder:
    """Paths and writers of one run's folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.meanings = self.path / "metrics.json"
        self.evaluations = self.path / "evaluations.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.events = self.path / "events.jsonl"
        self.stop = self.path / "STOP"
        self.lock = self.path / ".lock"
        self.recover = self.path / "recover"
        self.summary = self.path / "summary.json"
        self.timeline = self.path / "timeline.json"
        self.samples = self.path / "samples"
        self.pending = self.samples / "pending"  # samples of the step that goes on
        self.checkpoints = self.path / "checkpoints"
        self.validations = self.path / "validation"
        self.logs = self.path / "logs"

    def checkpoint(self, step: int) -> Path:
        """Weights after a step."""
        return self.checkpoints / f"step-{step:05d}"

    def validation(self, step: int) -> Path:
        """Answers in the validation after a step."""
        return self.validations / f"step-{step:05d}"

    def create(self) -> RunFolder:
        for folder in (self.path, self.checkpoints, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def sample_files(self) -> dict[int, list[Path]]:
        """Of each step with samples, ascending: its JSON and its pictures."""
        found: dict[int, list[Path]] = {}
        for path in sorted(self.samples.glob("step-*")):
            if step := _STEP.match(path.name):
                found.setdefault(int(step[1]), []).append(path)
        return dict(sorted(found.items()))

    def append(self, file: Path, record: dict[str, Any]) -> None:
        """Add one JSON line and hand it to the operating system at once."""
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def event(self, event: str, **fields: Any) -> None:
        """Add a line to `events.jsonl`, with the time."""
        self.append(self.events, {"event": event, "time": time.time(), **fields})

    def last_of_life(self) -> dict[str, Any]:
        """The latest event of the run as a whole; empty for none."""
        events = (e for e in read_lines(self.events) if e.get("event") in LIFE)
        return next(iter(deque(events, maxlen=1)), {})

    def finished(self) -> bool:
        """Whether the run came to its end, and was not begun again since."""
        return self.last_of_life().get("event") == FINISHED

    def cut(self, step: int) -> None:
        """Take back what was written of steps after `step`: they will be made anew.

        A line that a killed process left unfinished goes, too.
        """
        for path in (
            *self.checkpoints.glob("step-*"),
            *self.validations.glob("step-*"),
        ):
            number = path.name.removeprefix("step-")
            if not number.isdigit() or int(number) > step:
                shutil.rmtree(path)
        shutil.rmtree(self.pending, ignore_errors=True)
        for number, files in self.sample_files().items():
            for path in files if number > step else ():
                path.unlink()
        for file in (self.metrics, self.evaluations, self.ledger):
            if file.exists():
                kept = [line for line in read_lines(file) if line["step"] <= step]
                text = "".join(json.dumps(line) + "\n" for line in kept)
                replace_file(file, text)

    def set_aside(self) -> Path:
        """Move what a run that can't be gone on with has made into a folder of its own;
        returns that."""
        number = 1 + len(list(self.path.glob("before-*")))
        aside = self.path / f"before-{number}"
        aside.mkdir()
        made = self.metrics, self.evaluations, self.ledger
        made += self.samples, self.path / "samples.json"
        for path in (*made, self.checkpoints, self.validations):
            if path.exists():
                path.rename(aside / path.name)
        self.checkpoints.mkdir()
        return aside

    def write(self, file: Path, record: Any) -> None:
        """Replace a JSON file in one step: a reader sees the old one or the new one."""
        replace_file(file, json.dumps(record, indent=1) + "\n")


def replace_file(file: Path, text: str) -> None:
    """Write a text file aside and put it in the place of the old one."""
    aside = file.with_name(file.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a file, but for lines that a killed process left unfinished."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
