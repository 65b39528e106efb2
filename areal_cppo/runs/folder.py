"""The files of a run's folder.

    config.yaml        the resolved configuration
    metrics.jsonl      a line a train step
    evaluations.jsonl  a line an evaluation on held-out problems
    summary.json       the run in one object
    timeline.json      when was generated, trained, and weights were handed over
    samples.json       a few responses, token by token, with samples/*.png
    report.html        all of it, to look at
    checkpoints/       weights
    logs/              what every process printed

Lines are appended whole and flushed, so a run that is killed keeps every finished step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# The instant in AReaL's trace that says which unix time the trace's clock shows.
CLOCK = "clock"


class RunFolder:
    """Paths and writers of one run's folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.summary = self.path / "summary.json"
        self.timeline = self.path / "timeline.json"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"

    def create(self) -> RunFolder:
        for folder in (self.path, self.checkpoints, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def append(self, file: Path, record: dict[str, Any]) -> None:
        """Add one JSON line and hand it to the operating system at once."""
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def write(self, file: Path, record: Any) -> None:
        """Replace a JSON file in one step: a reader sees the old one or the new one."""
        aside = file.with_name(file.name + ".part")
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, file)
