"""The files of a study's folder, and of each of its runs.

results.jsonl      a line per run and evaluation
detection.jsonl    a line per run, point, view and score
roles.jsonl        a line per run, point, view and role of a token
summary.json       means, intervals and paired differences
*.png              plots
runs/RUN/run.json          what the run is
runs/RUN/metrics.jsonl     a line a train step, as of any training run
runs/RUN/evaluations.jsonl, detection.jsonl, roles.jsonl    its own lines
runs/RUN/result.json       written last: the run is finished
runs/RUN/failures-STEP/    responses whose selection fails most
runs/RUN/checkpoint/       its last weights, if they are kept
runs/RUN/log.txt           what it printed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder, read_lines, replace_file
from areal_cppo.studies.spec import Run

# Of a run; and where the lines of all runs go together.
LINES = {"evaluations": "results", "detection": "detection", "roles": "roles"}


class StudyFolder:
    """A study's folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.summary = self.path / "summary.json"

    def run(self, run: Run) -> StudyRunFolder:
        """The folder of one of its runs."""
        return StudyRunFolder(self.path / "runs" / run.folder, run)

    def create(self) -> StudyFolder:
        """Make it.

        Raises
        ------
        UserError
            It can't be made.
        """
        try:
            (self.path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out: expected a folder that can be made, found {self.path}: "
                f"{error.strerror}; choose another"
            ) from error
        return self

    def unfinished(self, runs: Sequence[Run]) -> list[Run]:
        """Runs that are not finished.

        Raises
        ------
        UserError
            A finished one of the same name was another.
        """
        return [run for run in runs if not self.run(run).finished()]

    def gather(self, runs: Iterable[Run]) -> dict[str, list[dict[str, Any]]]:
        """Put the lines of finished runs together, write them, and return them by the
        names of `LINES`."""
        finished = [run for run in runs if self.run(run).finished()]
        lines = {}
        for name, together in LINES.items():
            lines[name] = [
                line
                for run in finished
                for line in read_lines(self.run(run).file(name))
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines[name])
            if text:
                replace_file(self.path / f"{together}.jsonl", text)
        return lines


class StudyRunFolder(RunFolder):
    """The folder of one run."""

    def __init__(self, path: Path, run: Run):
        super().__init__(path)
        self.run = run
        self.spec = self.path / "run.json"
        self.result = self.path / "result.json"
        self.log = self.path / "log.txt"

    def file(self, name: str) -> Path:
        """That of one of `LINES`."""
        return self.path / f"{name}.jsonl"

    def failures(self, step: int) -> Path:
        return self.path / f"failures-{step:05d}"

    def finished(self) -> bool:
        """Whether the run is finished.

        Raises
        ------
        UserError
            Another of the same name is.
        """
        if not self.result.is_file():
            return False
        was = json.loads(self.spec.read_text(encoding="utf-8"))
        now = asdict(self.run)
        for key, value in now.items():
            if was.get(key) != value:
                raise UserError(
                    f"--out: expected the study that {self.path.parent.parent} was "
                    f"begun with, found another {key} of {self.path.name} "
                    f"({_short(was.get(key))}, now {_short(value)}); choose another "
                    "folder"
                )
        return True

    def start(self) -> StudyRunFolder:
        """Begin anew: what a cut-off run has left is taken away."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.write(self.spec, asdict(self.run))
        return self


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
