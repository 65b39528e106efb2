"""Tables from files, one a split, and the slices of them that a split names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

from areal_cppo.data import text_rows
from areal_cppo.data.cache import file_state, made_once
from areal_cppo.data.text_rows import BadRows, loads, read_rows, write_rows
from areal_cppo.errors import UserError

# By their ending: parquet, or else rows of values as they are written.
FORMATS = {".parquet": "parquet", ".jsonl": "rows", ".json": "rows", ".csv": "rows"}
Table = tuple[datasets.Dataset, Sequence[Path]]  # with what it was read from
Tables = dict[str, Table]  # by split


def split_names(split: str, setting: str) -> list[str]:
    """`train` and `test` of `train[:90%]+test`.

    Raises
    ------
    UserError
        `datasets` has no such way to name rows, or takes it for another than it seems:
        `train[5:90%]` would begin at 5%.
    """
    try:
        datasets.ReadInstruction.from_spec(split)
        mixed = re.search(r"\[-?\d+(%:-?\d+|:-?\d+%)\]", split)
        fault = "numbers and percentages in one slice" if mixed else ""
    except ValueError as error:
        fault = str(error)
    if fault:
        raise UserError(
            f"{setting}.split: expected rows that `datasets` can read as split "
            f"{split!r}, found none ({fault}); write train, train[:90%], train[-100:] "
            "or train+test"
        )
    parts = (re.split(r"[\[(]", part)[0].strip() for part in split.split("+"))
    return list(dict.fromkeys(parts))


def only_name(names: list[str], path: Path | str, setting: str) -> str:
    """The split that a table is which names none; a `UserError` for several."""
    if len(names) > 1:
        raise UserError(
            f"{setting}.split: expected one split, found {' and '.join(names)}, of "
            f"{path}, which names none; name one of them"
        )
    return names[0]


def cut(
    tables: dict[str, datasets.Dataset], split: str, setting: str
) -> datasets.Dataset:
    """The slices of tables that a split names, one after the other."""
    lengths = {name: len(table) for name, table in tables.items()}
    parts = [
        tables[part.splitname].select(range(part.from_, part.to) or [])
        for part in datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    ]
    try:
        return datasets.concatenate_datasets(parts)
    except ValueError as error:
        raise UserError(
            f"{setting}.split: expected splits of the same columns, found other ones "
            f"in those of {split} ({_one_line(error)}); name one of them"
        ) from error


def from_saved(folder: Path, names: list[str], setting: str) -> Tables:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, by split.

    Raises
    ------
    UserError
        It can't be read, or has no such split.
    """
    try:
        saved = datasets.load_from_disk(str(folder))
    except (DatasetsError, OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{setting}.path: expected what `Dataset.save_to_disk` wrote, found "
            f"{folder} ({_one_line(error)}); save it again"
        ) from error
    if isinstance(saved, datasets.Dataset):
        saved = {only_name(names, folder, setting): saved}
    for name in names:
        if name not in saved:
            raise no_split(name, saved, f"for the dataset saved in {folder}", setting)
    return {
        name: (
            saved[name],
            [Path(file["filename"]) for file in saved[name].cache_files],
        )
        for name in names
    }


def no_split(name: str, known: Iterable[str], where: str, setting: str) -> UserError:
    """That there is no such split."""
    return UserError(
        f"{setting}.split: expected one of {', '.join(known)}, found {name!r}, "
        f"{where}; name one of them"
    )


def read_files(files: Sequence[Path], name: str, setting: str) -> Table:
    """The rows of parquet files, or of JSON and CSV ones, as the split `name`.

    Raises
    ------
    UserError
        They are of other kinds or several, can't be read, or hold no row.
    """
    formats = {FORMATS.get(file.suffix.lower()) for file in files}
    named = ", ".join(map(str, files[:3]))
    if len(formats) != 1 or None in formats:
        raise UserError(
            f"{setting}.path: expected either parquet files (.parquet) or JSON lines "
            f"and CSV (.jsonl, .json, .csv), found {named}; convert or leave out others"
        )
    try:
        if formats == {"rows"}:
            table = _rows_table(files)
        else:
            table = _parquet_table(files, name, setting)
    except (DatasetsError, BadRows, ValueError, OSError) as error:
        why = str(error) if isinstance(error, BadRows) else _one_line(error)
        raise UserError(
            f"{setting}.path: expected tables that `datasets` can read as split "
            f"{name!r}, found {named} ({why}); mend or leave out the file"
        ) from error
    if not len(table):
        raise UserError(
            f"{setting}.path: expected rows, found none in {named}; name other files"
        )
    return table, files


def _rows_table(files: Sequence[Path]) -> datasets.Dataset:
    state = "\n".join(f"{file.resolve()} {file_state(file)}" for file in files)
    own_code = Path(text_rows.__file__).read_text()
    folder = made_once("json", state + own_code, lambda to: write_rows(files, to))
    return read_rows(folder)


def _parquet_table(files: Sequence[Path], name: str, setting: str) -> datasets.Dataset:
    """Through `datasets`, which gives a column the type that the first file has."""
    first: dict[str, tuple[bool, Path]] = {}
    for file in files:
        for column in pq.read_schema(file):
            if pa.types.is_null(column.type):
                continue
            is_text = str(column.type) in ("string", "large_string", "string_view")
            known, other = first.setdefault(column.name, (is_text, file))
            if known != is_text:
                raise UserError(
                    f"{setting}.path: expected {column.name} to be text in all files "
                    f"or in none, found both in {other} and {file}; write one of them "
                    "again"
                )
    named = [str(file) for file in files]
    return datasets.load_dataset("parquet", data_files={name: named}, split=name)


def _one_line(error: BaseException) -> str:
    reason = error.__cause__ or error
    return " ".join(f"{type(reason).__name__}: {reason}".split())[:200]


def plain(value: Any, feature: Any) -> Any:
    """What a value of an Arrow table stands for: JSON text, and labels by number."""
    if value is None:
        return None
    if isinstance(feature, datasets.Json):
        return loads(value)
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [plain(item, feature.feature) for item in value]
    if isinstance(feature, dict):
        return {name: plain(value[name], inner) for name, inner in feature.items()}
    return value
