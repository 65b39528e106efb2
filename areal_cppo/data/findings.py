"""What the check of a table found, kept for the next start.

It is a small JSON file beside the caches of `datasets`, under a key made of all that it
depends on: the state of the table's files and of each image file, the settings, the
model's processor, and this package's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.compute as pc
import transformers

from areal_cppo.data.cache import cache_folder, file_state
from areal_cppo.data.images import image_sources
from areal_cppo.data.sources import Rows
from areal_cppo.data.text_rows import loads


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
    identities
        Of each row what it has in common with rows of the same question and the same
        images; empty for one that can't be used.
    """

    rows: int
    bad: list[BadRow] = field(default_factory=list)
    text_only: list[int] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)

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
    own_code = [
        f for room in ("data", "rewards") for f in (package / room).glob("*.py")
    ]
    parts = [
        *(f"{file.resolve()} {file_state(file)}" for file in rows.files),
        str(rows.folder.resolve()),
        (PIL.__version__, transformers.__version__, pa.__version__),
        *(file.read_text() for file in sorted(own_code)),
        *settings,
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{json.dumps(part)}\n".encode())
    for path in image_paths(rows, image_column):
        state = f"{path} {file_state(path)}\n"
        digest.update(state.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def image_paths(rows: Rows, column: str) -> Iterator[Path]:
    """Files that a column of images names; no image's bytes are copied."""
    table = rows.table.select_columns([column]).with_format("arrow")
    for batch in table.iter(4096):
        for chunk in batch.column(column).chunks:
            for value in _values(chunk):
                sources = image_sources(value, rows.folder)
                yield from (each for each in sources if isinstance(each, Path))


def _values(values: pa.Array) -> Iterator[Any]:
    """Texts, and what JSON holds, outside of structs that have bytes."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _values(values.flatten())
    elif pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if "path" in names:
            paths = pc.struct_field(values, "path")
            if "bytes" in names:
                paths = paths.filter(pc.is_null(pc.struct_field(values, "bytes")))
            yield from _values(paths)
    elif isinstance(kind, pa.JsonType):
        yield from (loads(text) for text in values.to_pylist() if text)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (path for path in values.to_pylist() if path)
