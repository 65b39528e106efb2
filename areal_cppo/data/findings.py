"""What the check of a table found, and how it is kept for the next start.

It is kept in a small JSON file beside the caches of `datasets`, under a key made of all
that it depends on: the state of the table's files and of each image file, the settings,
the model's processor, and this package's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.compute as pc
import transformers

from areal_cppo.data.sources import Rows, cache_folder, file_state

NAMED = 3  # rows named of each reason


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used: its number and name, the reason and what was seen."""

    row: int
    query_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Findings:
    """What the check of a table found.

    Attributes
    ----------
    rows
        Number of rows.
    bad
        Those that can't be used, by number.
    text_only
        Numbers of usable rows without an image.
    """

    rows: int
    bad: list[BadRow] = field(default_factory=list)
    text_only: list[int] = field(default_factory=list)

    def keep(self, key: str) -> None:
        """Write the findings down for :meth:`recall`."""
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(file)

    @classmethod
    def recall(cls, key: str) -> Findings | None:
        """What was kept under a key, if anything was."""
        try:
            kept = json.loads(_file(key).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        kept["bad"] = [BadRow(**bad) for bad in kept["bad"]]
        return cls(**kept)


def _file(key: str) -> Path:
    return cache_folder() / f"check-{key}.json"


def findings_key(rows: Rows, image_column: str, settings: list[Any]) -> str:
    """A digest of all that findings depend on.

    Parameters
    ----------
    image_column
        Whose paths name files that count too.
    settings
        Everything else, as plain values for JSON.
    """
    package = Path(__file__).parents[1]
    own_code = [*sorted(package.glob("data/*.py")), package / "rewards" / "answers.py"]
    parts = [
        *(f"{file.resolve()} {file_state(file)}" for file in rows.files),
        str(rows.folder.resolve()),
        (PIL.__version__, transformers.__version__, pa.__version__),
        *(file.read_text() for file in own_code),
        *settings,
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{json.dumps(part)}\n".encode())
    for path in image_paths(rows, image_column):
        digest.update(f"{path} {file_state(path)}\n".encode())
    return digest.hexdigest()[:32]


def image_paths(rows: Rows, column: str) -> Iterator[Path]:
    """Files that a column of images names; no image's bytes are copied."""
    batches = rows.table.select_columns([column]).with_format("arrow")
    for batch in batches.iter(4096):
        for chunk in batch.column(column).chunks:
            for path in _paths(chunk):
                yield rows.folder / path


def _paths(values: pa.Array) -> Iterator[str]:
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        yield from _paths(values.flatten())
    elif pa.types.is_struct(values.type):
        names = [values.type.field(i).name for i in range(values.type.num_fields)]
        if "path" in names:
            paths = pc.struct_field(values, "path")
            if "bytes" in names:
                paths = paths.filter(pc.is_null(pc.struct_field(values, "bytes")))
            yield from _paths(paths)
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        yield from (path for path in values.to_pylist() if path)


def describe(bad: list[BadRow], counts: Counter[str]) -> str:
    """Counts by reason with the first few rows of each, in one line."""
    parts = []
    for reason, count in counts.items():
        first = [item for item in bad if item.reason == reason][:NAMED]
        named = "; ".join(f"{item.query_id}: {item.detail}" for item in first)
        parts.append(f"{reason} {count:,}" + (f" ({named})" if named else ""))
    return ", ".join(parts)
