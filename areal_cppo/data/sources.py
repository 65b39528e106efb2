"""Tables of problems: from the hub, a folder, or parquet and JSON files.

Whatever the path names, it ends as files on this machine. A name on the hub is a
snapshot of that repository's tables in the hub's cache, so that `hf download
--repo-type dataset NAME` beforehand and HF_HUB_OFFLINE=1 work together.
"""

from __future__ import annotations

import glob
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.data_files import SPLIT_KEYWORDS
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from areal_cppo.config.keys import no_data
from areal_cppo.data.cache import file_state, made_once
from areal_cppo.data.tables import (
    FORMATS,
    Tables,
    cut,
    from_saved,
    no_split,
    only_name,
    plain,
    read_files,
    split_names,
)
from areal_cppo.errors import UserError

ARCHIVE = "images.zip"  # the pictures, where a repository holds them packed
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner/dataset
_SAVED = ("state.json", "dataset_dict.json")  # of `Dataset.save_to_disk`


@dataclass(frozen=True)
class Rows:
    """A table of problems.

    Attributes
    ----------
    table
        One row per problem.
    folder
        Where relative paths of images begin.
    files
        What `table` was read from.
    """

    table: datasets.Dataset
    folder: Path
    files: tuple[Path, ...]

    def values(self, column: str) -> list[Any]:
        """A column's plain values (:func:`plain`)."""
        table = self.table.select_columns([column]).with_format("arrow")
        feature = table.features[column]
        return [plain(value, feature) for value in table[:][column].to_pylist()]


def load_rows(
    path: str,
    split: str,
    image_folder: str | None,
    setting: str,
    note: Callable[[str], None],
) -> Rows:
    """Read the table that a configuration names.

    Parameters
    ----------
    path
        A folder, a parquet or JSON (lines) file, a glob of such, or `owner/name` on
        the hub. What exists on this machine comes first.
    split
        As `datasets` understands it: `train[:90%]`, `train+test`. It chooses among a
        folder's files by their names, where these name splits; files given by name,
        and a single saved `Dataset`, are that split, whatever it is.
    image_folder
        Where relative paths of images begin; `None`: in the folder, or beside the file.
        An `images.zip` there, without a folder `images`, is unpacked into the cache.
    setting
        The configuration's block, `train_dataset` or `valid_dataset`, for messages.
    note
        Told before something that takes long.

    Raises
    ------
    UserError
        There is nothing of the kind, or it can't be read.
    """
    names = split_names(split, setting)
    where = Path(path).expanduser()
    matches = sorted(Path(match) for match in glob.glob(str(where), recursive=True))
    if where.is_dir():
        tables, folder = _from_folder(where, names, setting), where
    elif where.is_file() or matches:
        files = (where,) if where.is_file() else tuple(matches)
        tables = {only_name(names, path, setting): read_files(files, names[0], setting)}
        folder = Path(os.path.commonpath([file.parent for file in files]))
    elif _HUB_NAME.fullmatch(path):
        folder = _snapshot(path, setting, note)
        tables = _from_folder(folder, names, setting)
    else:
        raise no_data(setting, path)
    table = cut({name: table for name, (table, _) in tables.items()}, split, setting)
    files = tuple(file for _, files in tables.values() for file in files)
    return Rows(table, _image_folder(image_folder, folder, note), files)


def _image_folder(named: str | None, beside: Path, note: Callable[[str], None]) -> Path:
    folder = beside if named is None else Path(named).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"data.image_folder: expected a folder, found none at {named}; correct it"
        )
    archive = folder / ARCHIVE
    if archive.is_file() and not (folder / "images").is_dir():
        return _unpacked(archive, note)
    return folder


def _snapshot(name: str, setting: str, note: Callable[[str], None]) -> Path:
    """The hub's cache of a repository, filled with its tables where it can be."""
    note(f"{setting}: looking for {name} on the hub and in its cache")
    tables = [f"*{suffix}" for suffix in FORMATS]
    try:
        folder = snapshot_download(
            name, repo_type="dataset", allow_patterns=[*tables, ARCHIVE]
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"{setting}.path: expected a folder, files, or a dataset on the hub, found "
            f"nothing here at {name} and none named {name} that can be fetched "
            f"({type(error).__name__}); check the name and the network, or run "
            f"`hf download --repo-type dataset {name}` where there is one"
        ) from error
    return Path(folder)


def _from_folder(folder: Path, names: list[str], setting: str) -> Tables:
    if any((folder / name).is_file() for name in _SAVED):
        return from_saved(folder, names, setting)
    return {
        name: read_files(files, name, setting)
        for name, files in _files_of(folder, names, setting).items()
    }


def _files_of(
    folder: Path, names: list[str], setting: str
) -> dict[str, tuple[Path, ...]]:
    """A folder's tables by split: parquet files, or else JSON ones."""
    found: list[Path] = []
    for suffix in FORMATS:
        files = (file.relative_to(folder) for file in folder.rglob(f"*{suffix}"))
        found = sorted(
            file
            for file in files
            if not any(part.startswith(".") for part in file.parts)
            and not file.name.startswith("dataset_info")
        )
        if found:
            break
    if not found:
        raise UserError(
            f"{setting}.path: expected parquet, JSON lines or CSV files, found none in "
            f"{folder}; name another folder or the files"
        )
    splits = {file: _splits_named(file) for file in found}
    known = sorted(set().union(*splits.values()))
    if not known:  # the names say nothing of splits
        every = tuple(folder / file for file in found)
        return {only_name(names, folder, setting): every}
    chosen = {}
    for name in names:
        wanted = _keyword_split(name) or name
        chosen[name] = tuple(folder / file for file in found if wanted in splits[file])
        if not chosen[name]:
            where = f"by the names of the files in {folder}"
            raise no_split(name, known, where, setting)
    return chosen


def _keyword_split(word: str) -> str | None:
    """The split that a word stands for: `validation` for `val`."""
    for split, keywords in SPLIT_KEYWORDS.items():
        if word in keywords:
            return str(split)
    return None


def _splits_named(name: Path) -> set[str]:
    """Splits whose names are words of a file's path."""
    words = re.split(r"[^a-z]+", str(name).lower())
    return {split for word in words if (split := _keyword_split(word))}


def _unpacked(archive: Path, note: Callable[[str], None]) -> Path:
    """The folder of an archive's files, unpacked once."""

    def unpack(folder: Path) -> None:
        note(f"unpacking {archive}")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)

    try:
        return made_once("images", f"{archive.resolve()} {file_state(archive)}", unpack)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"expected a zip archive of images, found {archive} ({error}); fetch it "
            "again"
        ) from error
