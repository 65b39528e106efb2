"""Rows of JSON and CSV files, each value as it was written.

`datasets` gives a column one type: 7 among texts becomes another text, 7.50 becomes
7.5, a date becomes a time stamp, and what fits no type is written as JSON once more,
quotes and all. Here each value is kept as JSON (`datasets`' feature `Json`), in Arrow
files in the cache that are made once for each state of the files. Of CSV all values are
text, but for empty ones, which are null.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

_PART_BYTES = 2**26  # of JSON in one Arrow file, which is built in memory


class BadRows(Exception):
    """A file holds something else than JSON objects; the message says where."""


def write_rows(files: Iterable[Path], folder: Path) -> None:
    """Write the objects of JSON and the rows of CSV files as Arrow files of a folder.

    Parameters
    ----------
    files
        UTF-8: an object a line, objects one after the other, or a list of them; those
        that end in `.csv` have their columns' names in the first line.
    folder
        Which is made.

    Raises
    ------
    BadRows
        A file holds something else.
    """
    folder.mkdir(parents=True)
    part: list[dict[str, str | None]] = []
    size = 0
    for row in chain.from_iterable(map(_objects, files)):
        part.append({name: _written(value) for name, value in row.items()})
        size += sum(len(text or "") for text in part[-1].values())
        if size > _PART_BYTES:
            _write(part, folder)
            part, size = [], 0
    if part:
        _write(part, folder)


def read_rows(folder: Path) -> datasets.Dataset:
    """What `write_rows` wrote; objects without a key that others have have null."""
    parts = [datasets.Dataset.from_file(str(file)) for file in sorted(folder.iterdir())]
    return (
        datasets.concatenate_datasets(parts)
        if parts
        else datasets.Dataset.from_dict({})
    )


def loads(text: str) -> Any:
    """A value; of its numbers those with a point or an exponent as text, as written."""
    return json.loads(text, parse_float=str)


class _Written(str):
    """A number with a point or an exponent, as it was written."""


def _written(value: Any) -> str | None:
    try:
        return None if value is None else _dumps(value)
    except RecursionError:
        raise BadRows("lists or objects in each other, hundreds deep") from None


def _dumps(value: Any) -> str:
    """JSON, of numbers that were read as `_Written` letter by letter."""
    match value:
        case _Written():
            return value
        case dict():
            pairs = (f"{json.dumps(k)}: {_dumps(v)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(map(_dumps, value))}]"
    return json.dumps(value)


def _write(part: list[dict[str, str | None]], folder: Path) -> None:
    names = dict.fromkeys(name for row in part for name in row)
    columns = {
        name: pa.ExtensionArray.from_storage(
            pa.json_(), pa.array([row.get(name) for row in part], pa.string())
        )
        for name in names
    }
    table = pa.table(columns)
    file = folder / f"{len(list(folder.iterdir())):06d}.arrow"
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix.lower() == ".csv":
        yield from _csv_rows(file)
        return
    for line, value in _values(file):
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict) or not item:
                found = f"expected an object with keys, found {json.dumps(item)[:40]}"
                raise BadRows(f"line {line} of {file}: {found}")
            yield item


def _csv_rows(file: Path) -> Iterator[dict[str, str | None]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names):
                raise ValueError(f"two columns of one name: {names}")
            for values in reader:
                if values and len(values) != len(names):
                    raise ValueError(f"{len(names)} columns, {len(values)} values")
                if values:
                    yield dict(zip(names, (value or None for value in values)))
        except (ValueError, csv.Error) as error:
            raise BadRows(f"line {reader.line_num} of {file}: {error}") from error


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    """Values with their lines: one a line or, if the first line is none, spread."""
    line, begun = 1, False
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for line, text in enumerate(lines, 1):
                if not text.strip():
                    continue
                try:
                    value = _DECODER.decode(text.strip())
                except JSONDecodeError:
                    if begun:
                        raise
                    break
                begun = True
                yield line, value
            else:
                return
        line, text = 1, file.read_text(encoding="utf-8-sig")
        at = _SPACE.match(text).end()
        while at < len(text):
            value, end = _DECODER.raw_decode(text, at)
            yield line + text.count("\n", 0, at), value
            at = _SPACE.match(text, end).end()
    except JSONDecodeError as error:
        line += error.lineno - 1
        raise BadRows(f"line {line} of {file}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise BadRows(f"line {line} of {file}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object with two values of one key: {list(found)}")
    return found


_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder(
    parse_float=_Written,
    parse_constant=lambda word: None,  # NaN is no JSON, but Python writes it
    object_pairs_hook=_unique,
)
