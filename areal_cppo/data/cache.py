"""What this package keeps of datasets, beside the caches of `datasets`."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets


def cache_folder() -> Path:
    """Where this package keeps what it made of datasets."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "areal_cppo"


def file_state(file: Path) -> str:
    """What changes when a file does, or `missing`."""
    try:
        state = file.stat()
    except (OSError, ValueError):  # a NUL in the name
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def made_once(kind: str, state: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made by `make` where there is none of the same state."""
    digest = hashlib.sha256(state.encode()).hexdigest()[:32]
    folder = cache_folder() / f"{kind}-{digest}"
    if folder.is_dir():
        return folder
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        make(aside)
        aside.rename(folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise
    return folder  # by another process, if that was quicker
