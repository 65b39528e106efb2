"""The folder of an evaluation, and how one that was cut off goes on.

settings.json     all that an answer depends on; checked before going on
responses.jsonl   a line a response, in the order in which they came
evaluation.json   the numbers
server.log        what the generation server printed, where one was started
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.report.settings import flatten

Key = tuple[int, str | int]  # index, and `greedy` or the number of the sample
_SHOWN = 3  # differences named


class EvaluationFolder:
    """Paths, writers and readers of an evaluation's folder.

    A record of `responses.jsonl` has `index` (of the problem in its dataset),
    `query_id` (its name), `sample` (`greedy` or 0 to k - 1),
    `prompt_tokens`, `response` (text, special tokens included), `extracted` (the answer
    found in it, or null), `answer` (the true one), `correct`, `format` (null where the
    reward function has no part of that name), `reward` and its `parts` by name,
    `finish_reason` (`stop` or `length`), `tokens` and `seconds`. Of a refused one
    `refused` is the reason, and what is not known is null; it is asked again when the
    evaluation goes on.

    Parameters
    ----------
    path
        The folder; made if it isn't there.
    settings
        All that an answer depends on, as JSON.

    Raises
    ------
    UserError
        The folder can't be made, holds something else, or an evaluation with other
        settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.responses = path / "responses.jsonl"
        self.evaluation = path / "evaluation.json"
        self.log = path / "server.log"
        plain = json.loads(json.dumps(settings, default=str))
        self.digest = hashlib.sha256(
            json.dumps(plain, sort_keys=True).encode()
        ).hexdigest()
        self._files = RunFolder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out: expected a folder that can be made, found {path}: "
                f"{error.strerror}; choose another"
            ) from error
        if self.settings.is_file():
            self._check(json.loads(self.settings.read_text(encoding="utf-8")), plain)
        elif any(path.iterdir()):
            raise UserError(
                f"--out: expected a new folder or one of an evaluation, found {path} "
                "with other files; choose another"
            )
        else:
            self._files.write(self.settings, plain)
        self.records: dict[Key, dict[str, Any]] = self._read()

    def _check(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        old, new = flatten(before), flatten(now)
        other = [
            f"other {key}"  # a digest of it says nothing
            if key.startswith("weights.")
            else f"{key} {old.get(key)!r} there, {new.get(key)!r} here"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if other:
            more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            raise UserError(
                f"--out: expected the settings of the evaluation in {self.path}, found "
                f"{'; '.join(other[:_SHOWN])}{more}; choose another folder"
            )

    def _read(self) -> dict[Key, dict[str, Any]]:
        """Records so far; a line that was cut off by a kill is taken off."""
        if not self.responses.is_file():
            return {}
        content = self.responses.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self.responses.write_bytes(whole)
        records = map(json.loads, whole.decode().splitlines())
        return {(record["index"], record["sample"]): record for record in records}

    def done(self, key: Key) -> bool:
        """Whether a response was judged; a refused one was not."""
        return key in self.records and self.records[key]["refused"] is None

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record, in memory and on disk."""
        self.records[record["index"], record["sample"]] = record
        self._files.append(self.responses, record)

    def conclude(self, result: dict[str, Any]) -> None:
        """Write `evaluation.json`."""
        self._files.write(self.evaluation, result)
