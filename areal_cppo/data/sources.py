"""Tables of problems: from the hub, a folder, or parquet and JSON files.

Whatever the path names, it ends as files on this machine, which `datasets` reads. A
name on the hub is a snapshot of that repository's tables in the hub's cache, so that
`hf download --repo-type dataset NAME` beforehand and HF_HUB_OFFLINE=1 work together.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.data_files import SPLIT_KEYWORDS
from datasets.exceptions import DatasetsError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from areal_cppo.config.keys import no_data
from areal_cppo.errors import UserError

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
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
        As `datasets` understands it, slices included (`train[:90%]`). It chooses
        among a folder's files by their names, where these name splits; files given by
        name are that split, whatever it is.
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
    where = Path(path).expanduser()
    matches = sorted(Path(match) for match in glob.glob(str(where), recursive=True))
    if where.is_dir():
        table, files = _from_folder(where, split, setting)
        folder = where
    elif where.is_file() or matches:
        files = (where,) if where.is_file() else tuple(matches)
        table = _read(files, split, setting)
        folder = Path(os.path.commonpath([file.parent for file in files]))
    elif _HUB_NAME.fullmatch(path):
        folder = _snapshot(path, setting, note)
        table, files = _from_folder(folder, split, setting)
    else:
        raise no_data(setting, path)
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


def _from_folder(
    folder: Path, split: str, setting: str
) -> tuple[datasets.Dataset, tuple[Path, ...]]:
    if any((folder / name).is_file() for name in _SAVED):
        return _from_saved(folder, split, setting)
    files = _tables(folder, split, setting)
    return _read(files, split, setting), files


def _from_saved(
    folder: Path, split: str, setting: str
) -> tuple[datasets.Dataset, tuple[Path, ...]]:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(
                f"{setting}.split: expected one of {', '.join(saved)}, found "
                f"{split!r}, for the dataset saved in {folder}; name one of them"
            )
        saved = saved[split]
    return saved, tuple(Path(file["filename"]) for file in saved.cache_files)


def _tables(folder: Path, split: str, setting: str) -> tuple[Path, ...]:
    """A folder's tables of one split: parquet files, or else JSON ones."""
    found: list[Path] = []
    for suffix in FORMATS:
        names = (file.relative_to(folder) for file in folder.rglob(f"*{suffix}"))
        found = sorted(
            name
            for name in names
            if not any(part.startswith(".") for part in name.parts)
            and not name.name.startswith("dataset_info")
        )
        if found:
            break
    if not found:
        raise UserError(
            f"{setting}.path: expected parquet or JSON lines files, found none in "
            f"{folder}; name another folder or the files"
        )
    splits = {name: _splits_named(name) for name in found}
    known = sorted(set().union(*splits.values()))
    wanted = _split_name(split)
    wanted = _keyword_split(wanted) or wanted
    if not known:  # the names say nothing of splits
        return tuple(folder / name for name in found)
    chosen = tuple(folder / name for name in found if wanted in splits[name])
    if not chosen:
        raise UserError(
            f"{setting}.split: expected one of {', '.join(known)}, found {split!r}, by "
            f"the names of the files in {folder}; name one of them"
        )
    return chosen


def _split_name(split: str) -> str:
    """`train` of `train[:90%]`."""
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()


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


def _read(files: tuple[Path, ...], split: str, setting: str) -> datasets.Dataset:
    formats = {FORMATS.get(file.suffix.lower()) for file in files}
    named = ", ".join(map(str, files[:3]))
    if len(formats) != 1 or None in formats:
        raise UserError(
            f"{setting}.path: expected files of one kind, parquet (.parquet) or JSON "
            f"lines (.jsonl, .json), found {named}; name files of one kind"
        )
    try:
        return datasets.load_dataset(
            formats.pop(),
            data_files={_split_name(split): [str(file) for file in files]},
            split=split,
        )
    except (DatasetsError, ValueError) as error:
        reason = error.__cause__ or error
        text = " ".join(f"{type(reason).__name__}: {reason}".split())
        raise UserError(
            f"{setting}.path: expected tables that `datasets` can read as split "
            f"{split!r}, found {named} ({text[:200]}); mend or leave out the file"
        ) from error


def cache_folder() -> Path:
    """Where this package keeps what it made of datasets."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "areal_cppo"


def file_state(file: Path) -> str:
    """What changes when a file does, or `missing`."""
    try:
        state = file.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def _unpacked(archive: Path, note: Callable[[str], None]) -> Path:
    """The folder of an archive's files, unpacked once."""
    state = f"{archive.resolve()} {file_state(archive)}"
    digest = hashlib.sha256(state.encode()).hexdigest()[:32]
    folder = cache_folder() / f"images-{digest}"
    if folder.is_dir():
        return folder
    note(f"unpacking {archive}")
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(aside)
    except zipfile.BadZipFile as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"expected a zip archive of images, found {archive} ({error}); fetch it "
            "again"
        ) from error
    try:
        aside.rename(folder)
    except OSError:  # another process was quicker
        if not folder.is_dir():
            raise
        shutil.rmtree(aside)
    return folder
